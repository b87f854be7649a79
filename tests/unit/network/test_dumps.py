from __future__ import annotations

import pytest
from pyroute2.netlink.exceptions import NetlinkDumpInterrupted

from kronos.network.dumps import whole


def test_a_list_that_changed_while_it_was_told_is_asked_for_again() -> None:
    attempts = iter([NetlinkDumpInterrupted(), NetlinkDumpInterrupted(), ["eth0"]])

    def ask(**filters: object) -> list[str]:
        assert filters == {"index": 1}
        answer = next(attempts)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert whole(ask, index=1) == ["eth0"]


def test_a_list_that_never_stands_still_is_given_up() -> None:
    def ask() -> list[str]:
        raise NetlinkDumpInterrupted

    with pytest.raises(NetlinkDumpInterrupted):
        whole(ask)

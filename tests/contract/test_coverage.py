"""Of every message that is not served it is known what it waits for."""

from __future__ import annotations

from kronos.daemon import main
from kronos.dispatch.coverage import coverage, unserved


def test_every_unserved_message_says_what_it_waits_for(contract):
    assert [each.full_name for (_, reason), found in unserved().items() for each in found if not reason] == []


def test_both_counts_are_one(contract):
    missing = {name: known - served for name, (served, known) in coverage().items() if known != served}
    listed: dict[str, int] = {}
    for (name, _), found in unserved().items():
        listed[name] = listed.get(name, 0) + len(found)
    assert listed == missing


def test_the_daemon_lists_them(contract, capsys):
    assert main(["--coverage=unserved"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert any(line.startswith("pool, needs a pool: ") and " join " in line for line in printed)
    assert all(", needs " in line for line in printed[:-1])

    assert main(["--coverage"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("total")

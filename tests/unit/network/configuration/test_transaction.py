"""Files of a change: written, taken back, and found again after whatever happened in between."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kronos.network.configuration import links, program
from kronos.network.configuration.base import Port, Refused
from kronos.network.configuration.links import Address, Held
from kronos.network.configuration.transaction import MADE, UNCONFIRMED, Change, RolledBack, Transaction
from kronos.system.commands import CommandFailed

PORT = Port("ens3", "brens3", "52:54:00:12:34:56")
HELD = Held(
    (
        Address("inet", "192.0.2.2/24", "192.0.2.255"),
        Address("inet6", "2001:db8::2/64", valid=60, preferred=30),
    ),
    (("-4", "default via 192.0.2.1"),),
    ("192.0.2.1",),
)


class Hands:
    """A tool that remembers what it was asked, and fails where it is told to."""

    def __init__(self, failing: str = "") -> None:
        self.asked: list[str] = []
        self.failing = failing

    def _do(self, step: str) -> None:
        self.asked.append(step)
        if step == self.failing:
            raise CommandFailed(["tool"], 1, "no lease")

    def join(self, port: Port, has: Held) -> None:
        self._do("join")

    def leave(self, port: Port, has: Held) -> None:
        self._do("leave")

    def renew(self, port: Port, has: Held) -> None:
        self._do("renew")


@pytest.fixture(autouse=True)
def reachable(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that is reached, whatever its links are."""
    monkeypatch.setattr(links, "answers", lambda device, gateway: True)
    monkeypatch.setattr(links, "missing", lambda device, before, answering: "")


def a_change(folder: Path, before: Mapping[str, str | None], after: Mapping[str, str | None]) -> Change:
    placed = [{str(folder / name): text for name, text in files.items()} for files in (before, after)]
    for path, text in placed[0].items():
        if text is not None:
            Path(path).write_bytes(text.encode("utf-8", "surrogateescape"))
    return Change("tool", "join", "leave", PORT, HELD, *placed)


@given(st.binary(max_size=50))
def test_a_change_is_read_as_it_was_written(content: bytes) -> None:
    text = content.decode("utf-8", "surrogateescape")
    change = Change(
        "tool", "renew", "join", PORT, HELD, {"/a": text, "/b": None}, {"/a": None, "/b": text}, Held()
    )
    assert Change.from_json(change.as_json()) == change


def test_a_change_that_is_confirmed_leaves_the_new_files(tmp_path: Path) -> None:
    change = a_change(tmp_path, {"a": "old\n", "b": None}, {"a": "new\n", "b": "more\n"})
    (tmp_path / "a").chmod(0o640)
    transaction = Transaction(tmp_path / "state")
    hands = Hands()
    with transaction.alone():
        transaction.perform(change, hands)
    assert hands.asked == ["join"]
    assert ((tmp_path / "a").read_text(), (tmp_path / "b").read_text()) == ("new\n", "more\n")
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640
    assert transaction.unconfirmed() is None


def test_a_tool_that_fails_leaves_nothing(tmp_path: Path) -> None:
    raw = "old \udcff\r\n"
    change = a_change(tmp_path, {"a": raw, "b": None}, {"a": "new\n", "b": "more\n"})
    transaction = Transaction(tmp_path / "state")
    hands = Hands("join")
    with transaction.alone(), pytest.raises(RolledBack, match="no lease"):
        transaction.perform(change, hands)
    assert hands.asked == ["join", "leave"]
    assert (tmp_path / "a").read_bytes() == b"old \xff\r\n"
    assert not (tmp_path / "b").exists()
    assert transaction.unconfirmed() is None


def test_a_host_that_is_not_reached_goes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(links, "missing", lambda device, before, answering: "the gateway does not answer")
    change = a_change(tmp_path, {"a": "old\n"}, {"a": "new\n"})
    transaction = Transaction(tmp_path / "state", patience=0.1)
    with transaction.alone(), pytest.raises(RolledBack, match="does not answer"):
        transaction.perform(change, Hands())
    assert (tmp_path / "a").read_text() == "old\n"


def test_a_file_that_has_changed_meanwhile_stops_it(tmp_path: Path) -> None:
    change = a_change(tmp_path, {"a": "old\n"}, {"a": "new\n"})
    (tmp_path / "a").write_text("somebody's\n")
    hands = Hands()
    transaction = Transaction(tmp_path / "state")
    with transaction.alone(), pytest.raises(Refused, match="changed meanwhile"):
        transaction.perform(change, hands)
    assert not hands.asked
    assert (tmp_path / "a").read_text() == "somebody's\n"


@pytest.mark.parametrize("live", [True, False])
def test_what_was_left_halfway_is_undone_later(tmp_path: Path, live: bool) -> None:
    change = a_change(tmp_path, {"a": "old\n", "b": None}, {"a": "new\n", "b": "more\n"})
    transaction = Transaction(tmp_path / "state")
    transaction.state.mkdir()
    (transaction.state / UNCONFIRMED).write_text(change.as_json())
    (tmp_path / "a").write_text("new\n")  # and the power failed before b was written
    hands = Hands()
    assert transaction.settle({"tool": hands}, live=live) == change
    assert hands.asked == (["leave"] if live else [])
    assert (tmp_path / "a").read_text() == "old\n"
    assert transaction.settle({"tool": hands}, live=live) is None


def test_a_note_of_other_addresses_leads_back_to_what_was_first(tmp_path: Path) -> None:
    transaction = Transaction(tmp_path / "state")
    transaction.state.mkdir()
    first = program.noted(a_change(tmp_path, {"a": "first\n"}, {"a": "bridge\n"}), transaction.state)
    with transaction.alone():
        transaction.perform(first, Hands())
        later = a_change(tmp_path, {"a": "bridge\n", "b": None}, {"a": "static\n", "b": "dns\n"})
        transaction.perform(program.noted(later, transaction.state, transaction.made()), Hands())
    made = transaction.made()
    assert made is not None
    assert made.before == {str(tmp_path / "a"): "first\n", str(tmp_path / "b"): None}
    assert made.after == {str(tmp_path / "a"): "static\n", str(tmp_path / "b"): "dns\n"}


def test_a_shell_finds_the_originals(tmp_path: Path) -> None:
    """What xapi.postrm does where the program is gone."""
    change = a_change(tmp_path, {"a": "first\n", "b": None}, {"a": "bridge\n", "b": "new\n"})
    transaction = Transaction(tmp_path / "state")
    transaction.state.mkdir()
    with transaction.alone():
        transaction.perform(program.noted(change, transaction.state), Hands())
    made = transaction.made()
    assert made is not None
    program.keep_originals(transaction.state, made)
    copy = transaction.state / "original" / str(tmp_path / "a").lstrip("/")
    assert copy.read_text() == "first\n"
    assert (transaction.state / "added").read_text() == f"{tmp_path / 'b'}\n"
    check = ["sha256sum", "--quiet", "-c", str(transaction.state / "sums")]
    assert subprocess.run(check, cwd="/", timeout=20).returncode == 0
    (tmp_path / "b").write_text("somebody's\n")
    assert subprocess.run(check, cwd="/", timeout=20, capture_output=True).returncode == 1


def test_routes_are_said_as_ip_takes_them() -> None:
    again = links._again
    assert again("default via 192.0.2.1 proto dhcp src 192.0.2.2 metric 100 linkdown") == (
        "default via 192.0.2.1 proto dhcp src 192.0.2.2 metric 100"
    )
    assert again("default via fe80::1 proto ra metric 1024 expires 1790sec hoplimit 64 pref medium") == (
        "default via fe80::1 proto ra metric 1024 expires 1790 hoplimit 64 pref medium"
    )
    assert again("192.0.2.0/24 proto kernel scope link src 192.0.2.2") is None
    assert again("local 192.0.2.2 table local proto kernel scope host src 192.0.2.2") is None
    assert again("fe80::/64 proto kernel metric 256 pref medium") is None


def test_no_note_is_left_of_what_was_never_made(tmp_path: Path) -> None:
    transaction = Transaction(tmp_path / "state")
    change = a_change(tmp_path, {"a": "old\n"}, {"a": "new\n"})
    transaction.state.mkdir()
    with transaction.alone(), pytest.raises(RolledBack):
        transaction.perform(program.noted(change, transaction.state), Hands("join"))
    assert not (transaction.state / MADE).exists()


def test_a_note_that_cannot_be_read_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / MADE).write_text("{}")
    with pytest.raises(Refused, match="cannot be read"):
        Transaction(tmp_path).made()


def test_notes_with_secrets_of_profiles_are_roots_alone(tmp_path: Path) -> None:
    transaction = Transaction(tmp_path / "state")
    transaction.state.mkdir()
    with transaction.alone():
        change = a_change(tmp_path, {"a": None}, {"a": "psk=secret\n"})
        transaction.perform(program.noted(change, transaction.state), Hands())
    assert (transaction.state / MADE).stat().st_mode & 0o777 == 0o600


def test_what_a_kill_kept_from_being_put_by_for_a_purge_is_at_the_next_boot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    transaction = Transaction(tmp_path / "state")
    change = program.noted(
        a_change(tmp_path, {"was": "old", "new": None}, {"was": "w", "new": "n"}), transaction.state
    )
    with transaction.alone():
        transaction.perform(change, Hands())
    monkeypatch.setattr(program, "TOOLS", {"tool": Hands()})

    assert program.bridge(transaction, "ens3", lambda _: None) == 0

    put_by = transaction.state / "original" / str(tmp_path / "was").lstrip("/")
    assert put_by.read_text() == "old"
    assert (transaction.state / "added").read_text() == f"{tmp_path / 'new'}\n"
    subprocess.run(["sha256sum", "--quiet", "-c", transaction.state / "sums"], check=True)

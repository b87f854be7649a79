from __future__ import annotations

import io
import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from kronos.system import logs

log = logging.getLogger("kronos.test")


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)
    logging.raiseExceptions = True
    logs._secrets.clear()


@pytest.fixture
def output() -> io.StringIO:
    stream = io.StringIO()
    logs.configure("INFO", stream)
    return stream


def test_a_line_has_the_time_the_level_and_the_logger(output: io.StringIO) -> None:
    log.warning("disk %s is full", "xvda")

    line = output.getvalue()
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3} warning kronos\.test: disk xvda is full\n", line
    )


def test_lines_below_the_level_are_left_out_and_a_second_set_up_replaces_the_first(
    output: io.StringIO,
) -> None:
    log.debug("hidden")
    second = io.StringIO()
    logs.configure("debug", second)
    log.debug("shown")

    assert output.getvalue() == ""
    assert second.getvalue().endswith("debug kronos.test: shown\n")


def test_an_unknown_level_is_an_error() -> None:
    with pytest.raises(ValueError, match="LOUD"):
        logs.configure("loud")


def test_lines_name_the_task_and_session_they_belong_to(output: io.StringIO) -> None:
    with logs.about(session="OpaqueRef:s"), logs.about(task="OpaqueRef:t"):
        log.info("inside")
    log.info("outside")

    inside, outside = output.getvalue().splitlines()
    assert f"[task=OpaqueRef:t session={logs.track('OpaqueRef:s')}] kronos.test: inside" in inside
    assert "[" not in outside


def test_a_sessions_reference_never_shows(output: io.StringIO) -> None:
    with logs.about(session="OpaqueRef:5e55"):
        log.info("inside")

    assert "5e55" not in output.getvalue()


def test_secrets_are_hidden_in_messages_and_tracebacks_for_as_long_as_asked(output: io.StringIO) -> None:
    with logs.hidden("hunter22", "hunter22pass"):
        try:
            raise RuntimeError("cannot log in with hunter22")
        except RuntimeError:
            log.exception("tried %r", {"password": "hunter22pass"})
        with logs.hidden("hunter22"):
            pass
        log.info("still hunter22")
    assert "hunter22" not in output.getvalue()
    assert "pass'" not in output.getvalue()
    assert "tried {'password': '******'}" in output.getvalue()

    log.info("no longer a secret: hunter22")
    assert output.getvalue().endswith("hunter22\n")


def test_a_secret_for_good_stays_hidden(output: io.StringIO) -> None:
    logs.hide("pool-token")
    with logs.hidden("pool-token"):
        pass
    log.info("token=pool-token")

    assert output.getvalue().endswith("token=******\n")


def test_an_empty_or_tiny_secret_does_not_blot_out_the_log(output: io.StringIO) -> None:
    with logs.hidden("", "a"):
        log.info("a banana")

    assert output.getvalue().endswith("a banana\n")


def test_a_clients_newline_starts_no_line_of_its_own(output: io.StringIO) -> None:
    log.info("name %s", "x\n2026-01-01 critical forged\x1b[2J\u2028")

    assert output.getvalue().count("\n") == 1
    assert r"x\n2026-01-01 critical forged\x1b[2J\u2028" in output.getvalue()


def test_every_line_for_journald_has_its_priority_and_no_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (tmp_path / "stderr").open("w+") as stream:
        status = os.fstat(stream.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
        monkeypatch.setattr(logs, "SOCKET", tmp_path / "no journal")
        logs.configure("DEBUG", stream)
        log.debug("d")
        log.info("i")
        log.warning("w")
        try:
            raise RuntimeError("two\nlines")
        except RuntimeError:
            log.exception("e")
        log.critical("c")
        stream.seek(0)
        lines = stream.read().splitlines()

    assert lines[:4] == ["<7>kronos.test: d", "<6>kronos.test: i", "<4>kronos.test: w", "<3>kronos.test: e"]
    assert len(lines) > 7
    assert all(line.startswith("<3>") for line in lines[4:-1])
    assert lines[-1] == "<2>kronos.test: c"


def test_an_inherited_journal_variable_is_not_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JOURNAL_STREAM", "1:2")
    with (tmp_path / "stderr").open("w+") as stream:
        logs.configure("INFO", stream)
        log.info("i")
        stream.seek(0)
        assert not stream.read().startswith("<")

"""Files that are written whole, by a process that may be killed in the middle."""

from __future__ import annotations

import os
from pathlib import Path

from kronos.system.files import tidy, write_whole


def test_what_a_killed_process_left_of_a_file_goes_and_nothing_else(tmp_path: Path) -> None:
    kept = {"xapi-ssl.pem", ".hidden", "a.new", ".b.new"}
    for name in kept:
        write_whole(tmp_path / name, b"whole")
    child = os.fork()
    if child == 0:
        os.fsync = lambda _: os._exit(9)  # type: ignore[assignment]
        write_whole(tmp_path / "xapi-ssl.pem", b"half")
    os.waitpid(child, 0)
    assert len(os.listdir(tmp_path)) == len(kept) + 1
    tidy(tmp_path)
    assert set(os.listdir(tmp_path)) == kept
    assert (tmp_path / "xapi-ssl.pem").read_bytes() == b"whole"

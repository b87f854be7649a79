"""What a host knows of itself survives the daemon."""

from __future__ import annotations

from pathlib import Path

from kronos.system.local_keys import LocalKeys


def test_a_key_is_there_for_the_next_daemon(tmp_path: Path) -> None:
    LocalKeys(tmp_path / "local.json").put("boot", "3c5a")
    assert LocalKeys(tmp_path / "local.json").get("boot") == "3c5a"


def test_an_empty_value_removes_a_key(tmp_path: Path) -> None:
    keys = LocalKeys(tmp_path / "local.json")
    keys.put("boot", "3c5a")
    keys.put("other", "x")
    keys.put("boot", "")
    assert (keys.get("boot", "none"), keys.get("other")) == ("none", "x")


def test_a_broken_file_counts_as_empty_and_is_mended(tmp_path: Path) -> None:
    (tmp_path / "local.json").write_bytes(b"\xff{")
    keys = LocalKeys(tmp_path / "local.json")
    assert keys.get("boot") == ""
    keys.put("boot", "3c5a")
    assert keys.get("boot") == "3c5a"


def test_others_cannot_read_it(tmp_path: Path) -> None:
    LocalKeys(tmp_path / "local.json").put("boot", "3c5a")
    assert (tmp_path / "local.json").stat().st_mode & 0o777 == 0o600

"""The jail, where it cannot be had."""

import pytest

from kronos.boot.guest_disk import jail
from kronos.boot.guest_disk.agent import reading_only
from kronos.boot.guest_disk.unreadable import BootUnreadable


@pytest.mark.parametrize(
    ("missing", "form", "reason"),
    [
        (("grub-fstest", "grub2-fstest"), "raw", "grub-fstest"),
        (("bwrap",), "raw", "bwrap"),
        (("qemu-storage-daemon",), "vpc", "qemu-storage-daemon"),
    ],
)
def test_a_host_without_a_program_says_which(tmp_path, monkeypatch, missing, form, reason):
    monkeypatch.setattr(jail, "_program", lambda name: None if name in missing else f"/usr/bin/{name}")
    image = tmp_path / "disk"
    image.write_bytes((b"conectix" + bytes(52) + b"\0\0\0\3").ljust(512, b"\0"))
    with pytest.raises(BootUnreadable, match=reason):
        jail.Jail(image, form, 5.0)


def test_a_jail_that_does_not_start_says_what_bubblewrap_said(tmp_path, monkeypatch):
    monkeypatch.setattr(jail, "_PYTHON", "/usr/bin/no-such-python")
    monkeypatch.setattr(jail, "_program", lambda name: f"/usr/bin/{name}")
    (tmp_path / "disk").write_bytes(bytes(512))
    with pytest.raises(BootUnreadable, match="no-such-python"):
        jail.Jail(tmp_path / "disk", "raw", 5.0)


def test_the_readers_system_calls_fit_one_filter():
    """A filter's instruction is 8 bytes and there may be 4096; jumps reach 255 further."""
    rules = reading_only()
    assert len(rules) % 8 == 0
    assert len(rules) // 8 <= 4096
    assert rules[-8:] == b"\x06\0\0\0" + (0x00050001).to_bytes(4, "little")

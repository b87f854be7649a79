"""VM.PV_bootloader_args."""

import pytest

from kronos.boot.guest_disk.options import Options, parse
from kronos.boot.guest_disk.unreadable import BootUnreadable


def test_nothing_is_asked_for_by_default():
    assert parse("") == Options()


def test_values_behind_an_equals_sign_or_a_space():
    text = "--kernel=/boot/vmlinuz --ramdisk /boot/initrd --args 'console=hvc0 ro' --entry=2 --offset=32256"
    assert parse(text) == Options("/boot/vmlinuz", "/boot/initrd", "console=hvc0 ro", "2", 32256)


def test_options_of_no_meaning_here_are_passed_over_with_their_values():
    assert parse("-q --output /tmp/x --runas nobody -n --kernel /vmlinuz --new") == Options(kernel="/vmlinuz")


def test_paths_never_climb_above_the_guests_root():
    assert parse("--kernel=../../../etc/shadow").kernel == "/etc/shadow"


@pytest.mark.parametrize(
    "text",
    ["--kernel", "--offset=-1", "--offset=1e9", "--args='unclosed", "--args='a\nb'", "--kernel='a\0b'"],
)
def test_what_cannot_be_meant_is_refused(text):
    with pytest.raises(BootUnreadable):
        parse(text)


def test_a_text_without_end_is_refused():
    with pytest.raises(BootUnreadable):
        parse("--args=" + "x" * 20_000)

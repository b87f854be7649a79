"""GRUB 0.97's menu.lst."""

from kronos.boot.guest_disk.grub_legacy import parse
from kronos.boot.guest_disk.menu import Entry

MENU = """\
# comment
default=1
timeout 5
title  Old
    root (hd0,0)
    kernel /vmlinuz-old root=/dev/xvda1 ro
    initrd /initrd-old
title New, remembered
    root (hd0,1)
    kernel --no-mem-option (hd0,0)/vmlinuz-new root=LABEL=/ console=hvc0
    initrd /initrd-new
    savedefault
"""


def _menu(text, files=None):
    return parse(text, lambda name: (files or {}).get(name), "/boot/grub")


def test_titles_with_their_kernel_ramdisk_and_root():
    menu = _menu(MENU)
    assert menu.entries == [
        Entry("Old", "", "/vmlinuz-old", ("/initrd-old",), "root=/dev/xvda1 ro", "hd0,0"),
        Entry(
            "New, remembered",
            "",
            "(hd0,0)/vmlinuz-new",
            ("/initrd-new",),
            "root=LABEL=/ console=hvc0",
            "hd0,1",
        ),
    ]


def test_the_default_is_counted_from_zero_over_all_titles():
    assert _menu(MENU).default.title == "New, remembered"
    with_other_system = "default 1\ntitle DOS\nchainloader +1\n" + MENU.replace("default=1", "")
    assert _menu(with_other_system).default.title == "Old"


def test_the_first_title_is_the_default_where_none_is_named():
    assert _menu(MENU.replace("default=1", "")).default.title == "Old"


def test_a_remembered_default_is_read_from_its_file():
    text = MENU.replace("default=1", "default saved")
    assert _menu(text, {"/boot/grub/default": "1\n#\n#\n"}).default.title == "New, remembered"
    assert _menu(text).default.title == "Old"


def test_a_hypervisors_modules_are_the_kernel_and_its_ramdisk():
    menu = _menu(
        "title Xen\nroot (hd0,0)\nkernel /xen.gz dom0_mem=1G\nmodule /vmlinuz-xen root=/dev/sda1\nmodule /initrd-xen\n"
    )
    assert menu.entries == [Entry("Xen", "", "/vmlinuz-xen", ("/initrd-xen",), "root=/dev/sda1", "hd0,0")]

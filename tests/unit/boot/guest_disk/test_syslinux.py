"""SYSLINUX, EXTLINUX and ISOLINUX."""

from kronos.boot.guest_disk.menu import Entry
from kronos.boot.guest_disk.syslinux import parse


def _menu(text, files=None):
    return parse(text, lambda name: (files or {}).get(name), "/extlinux")


def test_labels_with_paths_relative_to_the_configuration():
    menu = _menu(
        "DEFAULT lts\nLABEL edge\n  MENU LABEL ^Edge\n  LINUX vmlinuz-edge\n  INITRD initramfs-edge\n  APPEND quiet\n"
        "LABEL lts\n  KERNEL /vmlinuz-lts\n  APPEND initrd=/a.img,b.img root=/dev/vda3 quiet\n"
    )
    assert menu.entries == [
        Entry("Edge", "edge", "/extlinux/vmlinuz-edge", ("/extlinux/initramfs-edge",), "quiet"),
        Entry("lts", "lts", "/vmlinuz-lts", ("/a.img", "/extlinux/b.img"), "root=/dev/vda3 quiet"),
    ]
    assert menu.default.identity == "lts"


def test_modules_of_the_boot_loader_are_no_kernels():
    menu = _menu("default menu.c32\nlabel disk\nkernel chain.c32\nlabel linux\nkernel /linux\n")
    assert [entry.kernel for entry in menu.entries] == ["/linux"]


def test_included_files_belong_to_the_menu_and_may_mark_the_default():
    files = {"/extlinux/more.cfg": "label b\nmenu default\nkernel /b\n"}
    menu = _menu("default a\nlabel a\nkernel /a\nmenu include more.cfg\n", files)
    assert menu.default.kernel == "/b"


def test_a_file_that_includes_itself_ends():
    text = "label a\nkernel /a\ninclude x.cfg\n"
    assert _menu(text, {"/extlinux/x.cfg": text}).entries[0].kernel == "/a"


def test_general_arguments_are_for_labels_without_their_own():
    menu = _menu("append quiet\nlabel a\nkernel /a\nlabel b\nkernel /b\nappend -\n")
    assert [entry.arguments for entry in menu.entries] == ["quiet", ""]

"""What all boot loaders' menus share."""

import pytest

from kronos.boot.guest_disk.menu import Entry, Menu, environment, joined, located, version_key
from kronos.boot.guest_disk.unreadable import BootUnreadable, shown


def test_an_entry_is_chosen_by_number_identity_or_title():
    first, second = Entry("Old", "id-1", "/a"), Entry("New", "id-2", "/b")
    menu = Menu([first, second], second)
    assert [menu.chosen(wanted) for wanted in ("", "0", "id-2", "Old", "7", "?")] == [
        second,
        first,
        second,
        first,
        None,
        None,
    ]


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("/boot/vmlinuz", ("", "/boot/vmlinuz")),
        ("(hd0,msdos1)/vmlinuz", ("hd0,msdos1", "/vmlinuz")),
        ("//boot/./../../vmlinuz", ("", "/vmlinuz")),
        ("vmlinuz", ("", "/vmlinuz")),
    ],
)
def test_a_path_is_made_absolute_within_its_device(name, place):
    assert located(name) == place


@pytest.mark.parametrize("name", ["", "(hd0)", "/a\nb", "/a\0b", "/" + "x" * 2000])
def test_a_path_that_no_file_can_have_is_refused(name):
    with pytest.raises(BootUnreadable):
        located(name)


def test_arguments_are_one_bounded_line():
    assert joined(["root=/dev/xvda1", "", "ro "]) == "root=/dev/xvda1  ro"
    for words in (["a\nb"], ["a\0b"], ["x"] * 3000):
        with pytest.raises(BootUnreadable):
            joined(words)


def test_versions_are_compared_by_their_numbers():
    names = ["5.9.0-1", "5.10.0-12", "5.10.0-2", "6.1~rc3", "6.1"]
    assert sorted(names, key=version_key) == ["5.9.0-1", "5.10.0-2", "5.10.0-12", "6.1~rc3", "6.1"]


def test_a_grubenv_is_names_and_values_up_to_its_padding():
    text = "# GRUB Environment Block\nsaved_entry=gnu\nkernelopts=root=/dev/x ro \\\\ \n1bad=x\n" + "#" * 500
    assert environment(text) == {"saved_entry": "gnu", "kernelopts": "root=/dev/x ro \\ "}


def test_names_in_messages_are_printable_and_short():
    assert shown("a\n\x1b[2Jb") == "a??[2Jb"
    assert len(shown("x" * 10_000)) < 400

"""Finding a configuration on a disk, and the files that it names."""

import pytest

from kronos.boot.guest_disk.disk import Device
from kronos.boot.guest_disk.search import Search

GRUB = "menuentry {0} {{ linux /vmlinuz-{0} }}"


def _search(disk):
    return Search(disk, disk.devices())


def _found(disk):
    return [(found.device.name, found.path) for found in _search(disk).configurations()]


def test_configurations_in_the_root_or_on_a_boot_partition(disk_of):
    for path in ("/boot/grub/grub.cfg", "/grub2/grub.cfg"):
        assert _found(disk_of({"loop0,gpt1": {"/x": ""}, "loop0,gpt2": {path: GRUB.format("a")}})) == [
            ("loop0,gpt2", path)
        ]


def test_menu_lst_comes_before_grub_cfg_as_guests_made_for_xen_mean_it(disk_of):
    files = {"/boot/grub/grub.cfg": GRUB.format("a"), "/boot/grub/menu.lst": "title t\nkernel /k\n"}
    assert [path for _, path in _found(disk_of({"loop0": files}))] == [
        "/boot/grub/menu.lst",
        "/boot/grub/grub.cfg",
    ]


def test_subvolumes_of_btrfs_are_looked_into_the_newest_snapshot_first(disk_of):
    files = {
        f"/@/.snapshots/{number}/snapshot/boot/grub2/grub.cfg": GRUB.format(number) for number in (2, 10)
    }
    assert [path.split("/")[3] for _, path in _found(disk_of({"loop0": files}))] == ["10", "2"]


def test_entries_without_a_grub_cfg_are_systemd_boots(disk_of):
    files = {"/loader/entries/a.conf": "title A\nlinux /a\n", "/loader/loader.conf": "default a.conf\n"}
    (found,) = _search(disk_of({"loop0,gpt1": files})).configurations()
    assert found.menu.default.title == "A"


def test_a_configuration_that_cannot_be_understood_is_a_problem_and_the_next_one_is_taken(disk_of):
    search = _search(
        disk_of({"loop0": {"/boot/grub/grub.cfg": "if " * 100, "/extlinux.conf": "label a\nkernel /a"}})
    )
    assert [found.path for found in search.configurations()] == ["/extlinux.conf"]
    assert "nested" in search.problems[0]


@pytest.mark.parametrize(
    ("name", "device"),
    [
        ("hd0,msdos2", "loop0,msdos2"),
        ("hd1,gpt3", "loop0,gpt3"),
        ("hd0,1", "loop0,msdos2"),
        ("lvm/vg-root", "lvm/vg-root"),
        ("loop0,msdos2", "loop0,msdos2"),
        ("host", ""),
        ("hd0,msdos9", ""),
        ("(", ""),
        ("", ""),
    ],
)
def test_a_boot_loaders_names_of_devices_are_ours_or_none(disk_of, name, device):
    disk = disk_of({name: {} for name in ("loop0,msdos2", "loop0,gpt3", "lvm/vg-root")})
    assert _search(disk).translated(name) == device


def test_devices_are_found_by_uuid_label_and_file(disk_of):
    devices = [Device("loop0,gpt1", "fat", "ESP", "AB-CD"), Device("loop0,gpt2", "xfs", "root", "1234")]
    search = Search(disk_of({"loop0,gpt2": {"/boot/x": ""}}, devices), devices)
    asked = [("uuid", "ab-cd"), ("label", "root"), ("file", "/boot/x"), ("uuid", ""), ("file", "/none")]
    assert [search.find(*question) for question in asked] == [
        "loop0,gpt1",
        "loop0,gpt2",
        "loop0,gpt2",
        None,
        None,
    ]


def test_only_devices_of_the_disk_are_read(disk_of):
    search = _search(disk_of({"host": {"/etc/shadow": "secret"}, "loop0": {"/x": "mine"}}))
    search.devices = [Device("loop0")]
    assert search.read("(host)/etc/shadow") is None
    assert search.read("(loop0)/../x") == "mine"

"""From a disk in memory to a kernel, a ramdisk and arguments."""

import pytest

from kronos.boot.guest_disk import options
from kronos.boot.guest_disk.disk import Device
from kronos.boot.guest_disk.loader import BootUnreadable, Loaded, _load


def _boot(disk, destination, arguments=""):
    loaded = _load(disk, options.parse(arguments), destination)
    ramdisk = loaded.ramdisk.read_text() if loaded.ramdisk else None
    return loaded.kernel.read_text(), ramdisk, loaded.arguments


ROOT = {
    "/boot/grub/grub.cfg": "set default=1\n"
    "menuentry Old { linux /boot/vmlinuz-1 root=/dev/xvda1 old; initrd /boot/initrd.img-1 }\n"
    "menuentry New { linux /boot/vmlinuz-2 root=/dev/xvda1 new; initrd /boot/initrd.img-2 }\n",
    "/boot/vmlinuz-1": "kernel 1",
    "/boot/vmlinuz-2": "kernel 2",
    "/boot/initrd.img-1": "ramdisk 1",
    "/boot/initrd.img-2": "ramdisk 2",
    "/etc/fstab": "# <file system>\nUUID=77-aa / ext4 errors=remount-ro 0 1\n",
}


def _without(*names):
    return {"loop0,msdos1": {path: text for path, text in ROOT.items() if not path.endswith(names)}}


def test_the_default_entry_is_copied_for_its_owner_alone(disk_of, tmp_path):
    assert _boot(disk_of(_without()), tmp_path) == ("kernel 2", "ramdisk 2", "root=/dev/xvda1 new")
    assert {(path.name, path.stat().st_mode & 0o777) for path in tmp_path.iterdir()} == {
        ("kernel", 0o600),
        ("ramdisk", 0o600),
    }


def test_the_record_may_choose_the_entry_and_add_arguments(disk_of, tmp_path):
    booted = _boot(disk_of(_without()), tmp_path, "--entry=Old --args='console=hvc0'")
    assert booted == ("kernel 1", "ramdisk 1", "root=/dev/xvda1 old console=hvc0")


def test_the_record_may_name_kernel_and_ramdisk(disk_of, tmp_path):
    arguments = "--kernel /boot/vmlinuz-1 --ramdisk=/boot/initrd.img-2 --args ro"
    assert _boot(disk_of(_without()), tmp_path, arguments) == ("kernel 1", "ramdisk 2", "ro")


def test_paths_of_a_separate_boot_partition_are_below_it(disk_of, tmp_path):
    boot = {"/grub/menu.lst": "title t\nroot (hd0,0)\nkernel /boot/vmlinuz\n", "/boot/vmlinuz": "k"}
    assert _boot(disk_of({"loop0,msdos1": boot, "loop0,msdos2": {"/vmlinuz": ""}}), tmp_path)[0] == "k"


def test_a_kernel_may_be_on_another_partition_than_its_configuration(disk_of, tmp_path):
    files = {"loop0,gpt1": {"/grub/grub.cfg": "menuentry m { linux ($root)/k x }"}, "loop0,gpt2": {"/k": "k"}}
    assert _boot(disk_of(files), tmp_path) == ("k", None, "x")


def test_several_ramdisks_are_one_each_beginning_at_a_multiple_of_four(disk_of, tmp_path):
    files = {"/grub/grub.cfg": "menuentry m { linux /k; initrd /a /b }", "/k": "k", "/a": "aaaaa", "/b": "b"}
    assert _boot(disk_of({"loop0": files}), tmp_path)[1] == "aaaaa\0\0\0b"


def test_another_entry_boots_where_the_defaults_files_are_missing(disk_of, tmp_path):
    for number, missing in enumerate(("vmlinuz-2", "initrd.img-2")):
        destination = tmp_path / str(number)
        destination.mkdir()
        assert _boot(disk_of(_without(missing)), destination)[0] == "kernel 1"


def test_the_newest_kernel_boots_where_no_boot_loader_is(disk_of, tmp_path):
    files = {
        **_without("grub.cfg")["loop0,msdos1"],
        "/boot/vmlinuz-0-rescue-9": "rescue",
        "/boot/vmlinuz-old": "o",
    }
    booted = _boot(disk_of({"loop0,msdos1": files}), tmp_path)
    assert booted == ("kernel 2", "ramdisk 2", "root=UUID=77-aa ro")


def test_without_fstab_the_root_is_the_file_system_itself(disk_of, tmp_path):
    disk = disk_of(_without("grub.cfg", "fstab"), [Device("loop0,msdos1", "ext*", "", "12-34")])
    assert _boot(disk, tmp_path)[2] == "root=UUID=12-34 ro"


def test_without_a_ramdisk_the_root_is_xens_first_disk(disk_of, tmp_path):
    disk = disk_of(
        _without("grub.cfg", "fstab", "-1", "img-2"), [Device("loop0,msdos1", "ext*", "", "12-34")]
    )
    assert _boot(disk, tmp_path) == ("kernel 2", None, "root=/dev/xvda1 ro")


def test_without_fstab_a_root_on_a_logical_volume_is_named_by_it(disk_of, tmp_path):
    disk = disk_of({"loop0,msdos1": {"/vmlinuz": "k"}, "lvm/vg-root": {"/etc/hostname": "h"}})
    assert _boot(disk, tmp_path)[2] == "root=/dev/mapper/vg-root ro"


def test_only_the_partition_at_the_given_offset_is_looked_at(disk_of, tmp_path):
    devices = [Device("loop0,msdos1", "ext*", start=1048576), Device("loop0,msdos2", "ext*", start=9437184)]
    files = {name.name: {"/vmlinuz": name.name} for name in devices}
    assert _boot(disk_of(files, devices), tmp_path, "--offset=9437184")[0] == "loop0,msdos2"
    with pytest.raises(BootUnreadable, match="begins 512 bytes"):
        _boot(disk_of(files, devices), tmp_path, "--offset=512")


@pytest.mark.parametrize(
    ("files", "arguments", "reason"),
    [
        ({}, "", "no file system"),
        ({"loop0": {"/etc/fstab": ""}}, "", "no boot loader and no kernel"),
        ({"loop0": {"/boot/grub/grub.cfg": "menuentry m { linux /gone }"}}, "", "/gone"),
        ({"loop0": {"/boot/grub/grub.cfg": "menuentry m { linux /k }", "/k": ""}}, "", "empty"),
        ({"loop0": ROOT}, "--entry=none", "no entry none"),
        ({"loop0": ROOT}, "--kernel=/none", "/none"),
    ],
)
def test_what_cannot_boot_says_why_and_leaves_nothing(disk_of, tmp_path, files, arguments, reason):
    with pytest.raises(BootUnreadable, match=reason):
        _boot(disk_of(files), tmp_path, arguments)
    assert list(tmp_path.iterdir()) == []


def test_a_link_at_the_destination_is_not_followed(disk_of, tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    destination = tmp_path / "destination"
    destination.mkdir()
    (destination / "kernel").symlink_to(victim)
    with pytest.raises(FileExistsError):
        _boot(disk_of(_without()), destination)
    assert victim.read_text() == "precious"


def test_the_answer_names_its_files(disk_of, tmp_path):
    loaded = _load(disk_of(_without()), options.parse(""), tmp_path)
    assert loaded == Loaded(tmp_path / "kernel", tmp_path / "ramdisk", "root=/dev/xvda1 new")

"""Which files an image is made of."""

import os
import struct
import subprocess

import pytest

from kronos.boot.guest_disk.chain import Layer, layers
from kronos.boot.guest_disk.unreadable import BootUnreadable


def _qemu_img(directory, *arguments):
    subprocess.run(["qemu-img", *arguments], cwd=directory, check=True, capture_output=True, timeout=60)


def test_a_raw_disk_is_one_layer_whatever_its_guest_wrote_at_its_beginning(tmp_path):
    _qemu_img(tmp_path, "create", "-f", "raw", "base.raw", "1M")
    _qemu_img(tmp_path, "create", "-f", "qcow2", "-b", "base.raw", "-F", "raw", "guest.raw")
    assert layers(tmp_path / "guest.raw", "raw") == [Layer(tmp_path / "guest.raw", "raw")]


def test_backing_files_beside_the_image_are_followed_in_their_own_form(tmp_path):
    _qemu_img(tmp_path, "create", "-f", "raw", "base.img", "1M")
    _qemu_img(tmp_path, "create", "-f", "qcow2", "-b", "base.img", "-F", "raw", "middle.qcow2")
    _qemu_img(tmp_path, "create", "-f", "qcow2", "-b", "middle.qcow2", "-F", "qcow2", "top")
    assert [(layer.path.name, layer.form) for layer in layers(tmp_path / "top", "qcow2")] == [
        ("top", "qcow2"),
        ("middle.qcow2", "qcow2"),
        ("base.img", "raw"),
    ]


@pytest.mark.parametrize(
    "name",
    ["/etc/shadow", "../outside.raw", "json:{}", "nbd://host/x", "missing.raw", "..", "link.raw", "fifo.raw"],
)
def test_a_backing_file_elsewhere_is_refused(tmp_path, name):
    directory = tmp_path / "sr"
    directory.mkdir()
    (tmp_path / "outside.raw").write_bytes(bytes(512))
    (directory / "link.raw").symlink_to("/etc/shadow")
    os.mkfifo(directory / "fifo.raw")
    _qemu_img(directory, "create", "-u", "-f", "qcow2", "-b", name, "-F", "raw", "top.qcow2", "1M")
    with pytest.raises(BootUnreadable, match="based on"):
        layers(directory / "top.qcow2", "qcow2")


def test_a_chain_in_a_circle_is_refused(tmp_path):
    _qemu_img(tmp_path, "create", "-u", "-f", "qcow2", "-b", "b.qcow2", "-F", "qcow2", "a.qcow2", "1M")
    _qemu_img(tmp_path, "create", "-u", "-f", "qcow2", "-b", "a.qcow2", "-F", "qcow2", "b.qcow2", "1M")
    with pytest.raises(BootUnreadable, match="layers"):
        layers(tmp_path / "a.qcow2", "qcow2")


def test_an_external_data_file_is_refused(tmp_path):
    _qemu_img(tmp_path, "create", "-f", "qcow2", "-o", "data_file=d.raw,data_file_raw=on", "a.qcow2", "1M")
    with pytest.raises(BootUnreadable, match="another file"):
        layers(tmp_path / "a.qcow2", "qcow2")


def test_a_vhd_must_be_whole(tmp_path):
    _qemu_img(tmp_path, "create", "-f", "vpc", "a.vhd", "1M")
    assert layers(tmp_path / "a.vhd", "vpc") == [Layer(tmp_path / "a.vhd", "vpc")]
    content = bytearray((tmp_path / "a.vhd").read_bytes())
    struct.pack_into(">I", content, len(content) - 512 + 60, 4)
    (tmp_path / "differencing.vhd").write_bytes(content)
    (tmp_path / "no.vhd").write_bytes(bytes(4096))
    (tmp_path / "short.vhd").write_bytes(b"conectix")
    for name, reason in (("differencing", "depends"), ("no", "not a VHD"), ("short", "")):
        with pytest.raises(BootUnreadable, match=reason):
            layers(tmp_path / f"{name}.vhd", "vpc")


def test_an_unknown_form_and_what_is_no_disk_are_refused(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    for name, form in (
        ("a", "vmdk"),
        ("missing", "qcow2"),
        ("missing", "raw"),
        ("fifo", "vpc"),
        (".", "raw"),
    ):
        with pytest.raises(BootUnreadable):
            layers(tmp_path / name, form)

"""Configurations are a guest's: whatever they say, a parser answers or raises BootUnreadable, in bounded memory."""

import tracemalloc

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kronos.boot.guest_disk import bls, chain, grub2, grub_legacy, menu, options, syslinux
from kronos.boot.guest_disk.unreadable import BootUnreadable

_SETTINGS = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])

_WORDS = st.sampled_from(
    "if then elif else fi [ ] ! { } ; \n menuentry submenu function while do done for in set default=0 default 1 "
    "default=${saved_entry} a=$a$a $a ${a} ${ $ ' \" \\ # ( ) (hd0,0)/x linux /vmlinuz initrd /i root (hd0,1) title "
    "kernel module search --set=root --fs-uuid -u 77 -s -f -n -z = != -a -o source configfile . blscfg load_env "
    "label append initrd= include x.cfg menu options $kernelopts version 1.2 sort-key multiboot module2 -- --id > "
    "--kernel --args= --offset=7 \0 é 99999999999999999999".split(" ")
)
_TEXTS = st.one_of(st.text(max_size=400), st.lists(_WORDS, max_size=60).map(" ".join))


class _Surroundings:
    """A guest whose every file is the same text."""

    def __init__(self, text):
        self.text = text

    def read(self, name):
        return self.text

    def find(self, kind, value):
        return "loop0" if len(value) % 2 else None

    def entries(self, device):
        return {"a.conf": self.text, "b.conf": self.text}


def _sound(found):
    for entry in found.entries:
        assert "\n" not in entry.arguments
        assert "\0" not in entry.arguments
        assert len(entry.arguments.encode()) <= menu.LONGEST_ARGUMENTS
    assert len(found.entries) <= menu.MOST_ENTRIES + 64
    assert found.default is None or found.default in found.entries


def _read_by_all(text):
    surroundings = _Surroundings(text)
    for parse in (
        lambda: grub2.parse(text, surroundings, "loop0", "/boot/grub"),
        lambda: grub_legacy.parse(text, surroundings.read, "/boot/grub"),
        lambda: syslinux.parse(text, surroundings.read, "/extlinux"),
        lambda: bls.parse({"a.conf": text}, menu.environment(text), untrusted_settings=text),
    ):
        try:
            _sound(parse())
        except BootUnreadable as refusal:
            assert str(refusal)


@_SETTINGS
@given(_TEXTS)
def test_any_text_is_a_menu_or_refused(text):
    _read_by_all(text)


@_SETTINGS
@given(_TEXTS)
def test_any_bootloader_arguments_are_options_or_refused(text):
    try:
        found = options.parse(text)
    except BootUnreadable:
        return
    assert found.kernel == "" or found.kernel.startswith("/")


@_SETTINGS
@given(st.binary(max_size=600), st.sampled_from(["qcow2", "vpc", "raw"]))
def test_any_header_is_an_image_or_refused(tmp_path_factory, content, form):
    image = tmp_path_factory.mktemp("image") / "image"
    image.write_bytes((b"QFI\xfb\0\0\0\3" if form == "qcow2" else b"") + content)
    try:
        layers = chain.layers(image, form)
    except BootUnreadable:
        return
    assert all(layer.path.parent == image.parent for layer in layers)


@pytest.mark.parametrize(
    "unit",
    [
        "a ",
        '"$a"',
        "if ",
        "menuentry a { linux /a }\n",
        "set a=b\n",
        "source /x\n",
        "title a\nkernel /a\n",
        "label a\nkernel /a\n",
        "include x\n",
        "options $a\n",
    ],
)
def test_a_mebibyte_of_anything_takes_bounded_memory(unit):
    text = unit * ((1 << 20) // len(unit))
    tracemalloc.start()
    try:
        _read_by_all(text)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 64 << 20

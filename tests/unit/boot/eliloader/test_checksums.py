"""Lists of checksums as distributions write them."""

from __future__ import annotations

import hashlib
import io

from hypothesis import given
from hypothesis import strategies as st

from kronos.boot.eliloader import checksums

SHA1, SHA256, SHA512 = "1" * 40, "2" * 64, "5" * 128


def test_a_tree_of_fedoras_names_kind_and_path() -> None:
    text = f"""\
[general]
family = AlmaLinux
[checksums]
images/pxeboot/vmlinuz = sha256:{SHA256}
images/pxeboot/Initrd.img = sha1:{SHA1.upper()}
images/efiboot.img = md5:00
"""
    assert checksums.read(text, "treeinfo", ".treeinfo") == {
        "images/pxeboot/vmlinuz": ("sha256", SHA256),
        "images/pxeboot/Initrd.img": ("sha1", SHA1),
    }


def test_debians_sums_count_from_their_own_directory() -> None:
    text = f"{SHA256}  ./netboot/linux\n{SHA256} *netboot/initrd.gz\n\nnothing to see here\n"
    assert checksums.read(text, "sums", "dists/x/images/SHA256SUMS") == {
        "dists/x/images/netboot/linux": ("sha256", SHA256),
        "dists/x/images/netboot/initrd.gz": ("sha256", SHA256),
    }


def test_suses_lists_old_and_new() -> None:
    text = f"{SHA512}  ./boot/x86_64/loader/linux\nHASH SHA1 {SHA1}  boot/i386/vmlinuz-xenpae\n"
    assert checksums.read(text, "sums", "CHECKSUMS") == {
        "boot/x86_64/loader/linux": ("sha512", SHA512),
        "boot/i386/vmlinuz-xenpae": ("sha1", SHA1),
    }


@given(st.text())
def test_a_damaged_list_says_nothing(text: str) -> None:
    for form in ("treeinfo", "sums"):
        for kind, digest in checksums.read(text, form, "x").values():
            assert kind in ("sha1", "sha256", "sha512")
            assert len(digest) >= 40


def test_a_file_is_compared_from_its_beginning() -> None:
    file = io.BytesIO(b"kernel")
    file.seek(3)
    assert checksums.matches(file, "sha256", hashlib.sha256(b"kernel").hexdigest())
    assert not checksums.matches(file, "sha256", SHA256)

"""The kernel that is never run."""

from __future__ import annotations

import struct

from kronos.boot.stand_in import stand_in


def test_it_is_a_bzimage_by_its_header() -> None:
    image = stand_in()
    assert image[0x202:0x206] == b"HdrS"
    (version,) = struct.unpack_from("<H", image, 0x206)
    assert version >= 0x0203, "below that QEMU asks for no limit of the RAM disk's address"
    setup = (image[0x1F1] + 1) * 512
    assert len(image) > setup, "there is a kernel behind the set-up code"
    assert image[0x211] & 1, "it is loaded high"

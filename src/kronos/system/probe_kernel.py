"""A kernel of a hundred bytes that proves that a hypervisor runs guests: it writes a line and powers off.

/dev/kvm may exist and still run nothing: no nested virtualisation, no permission, a broken module. Whoever wants to
know boots this:
`qemu-system-x86_64 -machine q35 -kernel FILE -serial stdio`; it ends by itself within half a second.

It is a flat image after the Multiboot specification 0.6.96, section 3.1. Beside the machine code stands its assembly.
"""

from __future__ import annotations

import struct

PROBE_LINE = "kronos: a guest runs here"
"""What the kernel writes to the first serial port, followed by a newline, if it runs."""

_LOADED_AT = 0x100000
_MAGIC = 0x1BADB002
_ADDRESSES_FOLLOW = 0x10000
_HEADER_SIZE = 32

_CODE = bytes.fromhex(
    "fc"  #                cld
    "be 49 00 10 00"  #    mov  esi, text
    "66 ba fd 03"  # next: mov  dx, 0x3fd    line status of COM1
    "ec"  #          busy: in   al, dx
    "a8 20"  #             test al, 0x20     may it take a byte?
    "74 fb"  #             jz   busy
    "ac"  #                lodsb
    "84 c0"  #             test al, al
    "74 07"  #             jz   off
    "66 ba f8 03"  #       mov  dx, 0x3f8    data of COM1
    "ee"  #                out  dx, al
    "eb eb"  #             jmp  next
    "66 ba 04 06"  #  off: mov  dx, 0x604    ACPI PM1a control, where QEMU's firmware puts it
    "66 b8 00 20"  #       mov  ax, 0x2000   sleep enable, type 0: QEMU's S5
    "66 ef"  #             out  dx, ax
    "fa"  #          halt: cli
    "f4"  #                hlt
    "eb fc"  #             jmp  halt
)


def probe_kernel() -> bytes:
    """The kernel's image, for QEMU's -kernel or libvirt's <kernel>."""
    header = struct.pack(
        "<8I",
        _MAGIC,
        _ADDRESSES_FOLLOW,
        -(_MAGIC + _ADDRESSES_FOLLOW) & 0xFFFFFFFF,
        _LOADED_AT,  # of this header
        _LOADED_AT,  # of the file
        0,  # its end: the file's
        0,  # no zeroed memory behind it
        _LOADED_AT + _HEADER_SIZE,  # entry
    )
    return header + _CODE + PROBE_LINE.encode("ascii") + b"\n\0"

"""Reading a guest's own kernel and ramdisk from its disk, without mounting it; see docs/guest-disk.md."""

"""Disk image files: what is in their headers, and the few operations on them. See `image`."""

"""Disks of this host that storage repositories are made of: what is on them, volume groups over them, mounts."""

"""Disks and VMs as streams: raw, VHD, qcow2 and XVA, in bounded memory. See docs/transfers.md."""

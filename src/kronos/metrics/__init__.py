"""What was measured of the host, its VMs and SRs: names, archives, and their forms for others."""

"""What the tiny guest runs besides busybox: its scripts, put into its RAM disk as they are."""

"""The records of this host: made at the first start, brought up to date at each one."""

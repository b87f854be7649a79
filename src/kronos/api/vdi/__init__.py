"""VDI: one module a family of messages."""

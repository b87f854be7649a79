"""VM: one module a family of messages."""

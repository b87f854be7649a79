"""SR: one module a family of messages."""

"""pool: one module a family of messages."""

"""host: one module a family of messages."""

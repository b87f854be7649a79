"""Storage repositories: one module per SR type, found by `registry`; `base` is what they all offer."""

"""For every unit test: how examples are made up."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

# An example that takes a fifth of a second is no finding: a busy machine does that to any of them, and a slow one is
# slow to make the first ones up.
settings.register_profile(
    "whatever the machine does", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("whatever the machine does")

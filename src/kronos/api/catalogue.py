"""The catalogue: importing every module of handlers, which checks each of them against the facts."""

from __future__ import annotations

import importlib
import pkgutil

from kronos import api


def load() -> None:
    """Import all handlers. Raises registry.Mismatch for one that does not fit the facts."""
    for module in pkgutil.walk_packages(api.__path__, f"{api.__name__}."):
        importlib.import_module(module.name)

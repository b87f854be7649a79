"""The kinds of external authentication there are: a module of this package for each, found by looking.

A module with one concrete Directory is a kind; the class's `type` is what XenAPI calls it.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Mapping
from functools import cache

import kronos.auth
from kronos.auth.base import Directory
from kronos.datamodel.errors import Failure


@cache
def kinds() -> Mapping[str, type[Directory]]:
    """`auth_type` -> class. Libraries of a kind are loaded when one is made, not here."""
    found: dict[str, type[Directory]] = {}
    for module in pkgutil.iter_modules(kronos.auth.__path__):
        content = importlib.import_module(f"{kronos.auth.__name__}.{module.name}")
        for _, each in inspect.getmembers(content, inspect.isclass):
            own = each.__module__ == content.__name__
            if own and issubclass(each, Directory) and not inspect.isabstract(each):
                assert each.type not in found, f"two kinds are {each.type}"
                found[each.type] = each
    return found


def kind(auth_type: str) -> type[Directory]:
    """Raises AUTH_UNKNOWN_TYPE [type]."""
    try:
        return kinds()[auth_type]
    except KeyError:
        raise Failure("AUTH_UNKNOWN_TYPE", auth_type) from None


def build(auth_type: str, service: str, configuration: Mapping[str, str]) -> Directory:
    """A directory of this kind, not asked anything yet. Raises AUTH_UNKNOWN_TYPE, DirectoryFailed."""
    return kind(auth_type)(service, configuration)

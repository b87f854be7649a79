"""pyroute2, of which only the part that speaks of links, addresses and routes is loaded.

`import pyroute2` loads every part of it, a database and a test laboratory among them: 9 MB of memory and half of the
time that all of the daemon takes to start. So its package is put in place without running its own code, and that runs
when somebody asks the package itself for a name.
"""

from __future__ import annotations

import importlib.util
import sys
from typing import Any


def _place_package() -> None:
    spec = importlib.util.find_spec("pyroute2")
    if spec is None or spec.loader is None:
        raise ModuleNotFoundError("pyroute2 is not installed", name="pyroute2")
    package, loader = importlib.util.module_from_spec(spec), spec.loader

    def load_all(name: str) -> Any:
        # A module of the package is asked for like this before it is looked for on disk.
        if name.startswith("__") or importlib.util.find_spec(f"pyroute2.{name}") is not None:
            raise AttributeError(name)
        package.__dict__.pop("__getattr__", None)
        loader.exec_module(package)
        return getattr(package, name)

    package.__dict__["__getattr__"] = load_all
    sys.modules["pyroute2"] = package


if "pyroute2" not in sys.modules:
    _place_package()

# After the package was put in its place.
from pyroute2.iproute import IPRoute  # noqa: E402
from pyroute2.netlink import rtnl  # noqa: E402
from pyroute2.netlink.exceptions import NetlinkDumpInterrupted, NetlinkError  # noqa: E402

__all__ = ["IPRoute", "NetlinkDumpInterrupted", "NetlinkError", "rtnl"]

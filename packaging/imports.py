"""Import every module of Kronos, or of the packages named, and end with 1 where one cannot be imported."""

from __future__ import annotations

import importlib
import pkgutil
import sys


def modules(package: str) -> list[str]:
    """A package's modules with itself, those that start a program when run left in: none does when imported."""
    path = importlib.import_module(package).__path__
    return [package, *(found.name for found in pkgutil.walk_packages(path, f"{package}."))]


def main(packages: list[str]) -> int:
    failed = 0
    count = 0
    for package in packages or ["kronos"]:
        for name in modules(package):
            count += 1
            try:
                importlib.import_module(name)
            except Exception as error:  # noqa: BLE001  # whatever it is, it is reported
                print(f"{name}: {error!r}", file=sys.stderr)
                failed += 1
    print(f"{count - failed} of {count} modules can be imported")
    return 1 if failed or not count else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

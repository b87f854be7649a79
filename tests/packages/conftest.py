"""The packages of this checkout, built once, and empty roots to install them in."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness.folders import passing
from harness.packages import built, roots
from harness.packages.built import Built
from harness.packages.roots import REPOSITORY, Root

Make = Callable[..., Root]
_SOURCE = """\
Types: deb
URIs: file:{repository}/debian
Suites: stable
Components: main
Architectures: amd64
Signed-By: /etc/apt/keyrings/kronos.gpg
"""


@pytest.fixture(scope="session")
def packages() -> Iterator[Built]:
    with passing("kpackages") as directory:
        made = built.build(directory)
        try:
            yield made
        finally:
            built.close(made)


@pytest.fixture(scope="session")
def base(packages: Built) -> Path:
    return roots.base(packages.dependencies)


@pytest.fixture
def make(base: Path, packages: Built) -> Iterator[Make]:
    """Makes roots whose apt knows a repository: both versions, where none is named."""
    numbers = itertools.count()

    def one(repository: Path | None = None) -> Root:
        repository = repository or packages.both
        root = Root(base, directory / str(next(numbers)), repository)
        root.write("/etc/apt/sources.list.d/kronos.sources", _SOURCE.format(repository=REPOSITORY))
        root.run(
            f"mkdir -p /etc/apt/keyrings && cp {REPOSITORY}/kronos.gpg /etc/apt/keyrings/ && apt-get update -q"
        )
        return root

    with passing("kroots") as directory:
        yield one

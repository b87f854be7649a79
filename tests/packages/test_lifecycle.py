"""Each package is installed, upgraded, removed and purged, and the root is then as it was.

Compared are all files with their owners, modes and contents: also what names users, groups, units that start, and
alternatives. What they depend on is in the base, so that what is left is ours.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from harness.packages.built import EARLIER, Built, source_packages
from harness.packages.roots import Failed, Root, left

pytestmark = pytest.mark.timeout(600)
EACH = pytest.mark.parametrize("package", source_packages())
Make = Callable[..., Root]


def purge(root: Root, built: Built, package: str) -> None:
    root.run(f"apt-get purge -q -y {' '.join(built.needed(package))}")


def test_all_that_the_source_names_is_built(packages: Built) -> None:
    assert sorted(packages.debs) == source_packages()


@EACH
def test_a_purged_package_leaves_nothing(make: Make, packages: Built, package: str) -> None:
    root = make()
    before = root.state()
    root.run(f"apt-get install -q -y {package}")
    assert root.installed().get(package) == packages.version
    assert left(before, root.state())
    purge(root, packages, package)
    assert left(before, root.state()) == []
    assert root.questions(packages.needed(package)) == ""


@EACH
def test_a_package_that_was_removed_is_installed_again_and_then_purged(
    make: Make, packages: Built, package: str
) -> None:
    root = make()
    before = root.state()
    root.run(f"apt-get install -q -y {package}")
    installed = root.state()
    root.run(f"apt-get remove -q -y {' '.join(packages.needed(package))}")
    assert not packages.debs.keys() & root.installed().keys()
    root.run(f"apt-get install -q -y {package}")
    assert left(installed, root.state()) == []
    root.run(f"apt-get remove -q -y {' '.join(packages.needed(package))}")
    purge(root, packages, package)
    assert left(before, root.state()) == []
    assert root.questions(packages.needed(package)) == ""


@EACH
def test_a_package_is_upgraded_and_then_purged(make: Make, packages: Built, package: str) -> None:
    ours = packages.needed(package)
    earlier = " ".join(f"{name}={packages.version}{EARLIER}" for name in ours)
    fresh, root = make(), make()
    before = root.state()
    fresh.run(f"apt-get install -q -y {package}")
    root.run(f"apt-get install -q -y {earlier}")
    root.run(f"apt-get install -q -y {package}")
    assert {name: root.installed().get(name) for name in ours} == dict.fromkeys(ours, packages.version)
    assert left(fresh.state(), root.state()) == [], "an upgraded package is another than a new one"
    purge(root, packages, package)
    assert left(before, root.state()) == []
    assert root.questions(ours) == ""


def test_purging_does_not_need_what_the_package_depends_on(make: Make, packages: Built) -> None:
    everything = " ".join(packages.debs)
    root = make()
    root.run(f"apt-get install -q -y {everything}")
    root.run(f"apt-get remove -q -y {everything}")
    root.run("apt-get autoremove -q -y --purge")
    assert "python3" not in root.installed()
    root.run(f"dpkg --purge {everything}")
    ours = f"dpkg-query -W -f '${{Package}}\\n' {everything} 2>/dev/null || true"
    assert root.run(ours) == ""


def test_an_earlier_version_comes_back_only_if_it_is_asked_for(make: Make, packages: Built) -> None:
    everything = " ".join(packages.debs)
    earlier = " ".join(f"{name}={packages.version}{EARLIER}" for name in packages.debs)
    root = make()
    root.run(f"apt-get install -q -y {everything}")
    with pytest.raises(Failed, match="--allow-downgrades"):
        root.run(f"apt-get install -q -y {earlier}")
    assert {root.installed()[name] for name in packages.debs} == {packages.version}
    root.run(f"apt-get install -q -y --allow-downgrades {earlier}")
    assert {root.installed()[name] for name in packages.debs} == {packages.version + EARLIER}
    assert root.run("dpkg --audit") == ""


def test_other_packages_are_not_touched(make: Make, packages: Built) -> None:
    root = make()
    others = root.installed()
    root.run(f"apt-get install -q -y {' '.join(packages.debs)}")
    assert {
        name: version for name, version in root.installed().items() if name not in packages.debs
    } == others

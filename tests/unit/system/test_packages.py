"""Where in a folder that came from somewhere a package manager finds its repository."""

from __future__ import annotations

import pytest

from kronos.system.packages import Apt, Dnf, NoRepository, Source


@pytest.fixture
def apt(tmp_path):
    return Apt(tmp_path / "lists")


@pytest.fixture
def dnf(tmp_path):
    return Dnf(tmp_path / "lists")


@pytest.fixture
def tree(tmp_path):
    """Makes a folder with some files in it."""

    def made(*names: str):
        for name in names:
            path = tmp_path / "tree" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        (tmp_path / "tree").mkdir(exist_ok=True)
        return tmp_path / "tree"

    return made


@pytest.mark.parametrize("signature", ["InRelease", "Release.gpg"])
def test_a_flat_archive_is_one_source(apt, tree, signature):
    place = tree(signature, "Packages")
    assert apt.sources(place, "bundle", "/key") == [Source("bundle", place.as_uri(), key="/key")]


def test_an_archive_with_suites_is_a_source_for_each(apt, tree):
    place = tree(
        "dists/bookworm/InRelease",
        "dists/bookworm/main/binary-amd64/Packages",
        "dists/bookworm/main/binary-amd64/Release",
        "dists/bookworm/main/debian-installer/binary-amd64/Packages",
        "dists/bookworm/contrib/binary-all/Packages",
        "dists/stable/updates/Release.gpg",
        "dists/stable/updates/main/binary-amd64/Packages",
        "dists/unsigned/Release",
        "dists/unsigned/main/binary-amd64/Packages",
    )
    found = {each.suite: each.components for each in apt.sources(place, "bundle", "")}
    assert found == {"bookworm": ("contrib", "main"), "stable/updates": ("main",)}


def test_an_archive_may_lie_in_the_only_folder(apt, dnf, tree):
    place = tree("our archive/InRelease", "our archive/repodata/repomd.xml")
    for manager in (apt, dnf):
        assert [each.url for each in manager.sources(place, "bundle", "")] == [
            f"{place.as_uri()}/our%20archive"
        ]


@pytest.mark.parametrize(
    "names",
    [
        (),
        ("Packages",),
        ("Release", "Packages"),
        ("dists/bookworm/InRelease",),
        ("dists/book worm/InRelease", "dists/book worm/main/binary-amd64/Packages"),
        ("dists/x/InRelease", "dists/x/main [trusted=yes]/binary-amd64/Packages"),
        ("a/b/InRelease",),
        ("a/InRelease", "b/InRelease"),
    ],
)
def test_what_is_not_signed_or_would_be_another_word_to_apt_is_no_source(apt, tree, names):
    with pytest.raises(NoRepository):
        apt.sources(tree(*names), "bundle", "")


def test_dnf_wants_its_own_kind(dnf, tree):
    with pytest.raises(NoRepository):
        dnf.sources(tree("InRelease", "Packages"), "bundle", "")


def test_a_name_with_line_breaks_makes_no_settings(dnf, monkeypatch):
    monkeypatch.setattr(dnf, "_run", lambda *words: "")
    dnf.sync([Source("a\n[b]\ngpgcheck=0", "http://archive/")], None)
    (written,) = (dnf.directory / "repos.d").glob("*.repo")
    assert [line for line in written.read_text().splitlines() if line.startswith(("[", "gpgcheck"))] == [
        "[xapi-0]",
        "gpgcheck=1",
    ]

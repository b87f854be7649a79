"""A tree out of a tar stream: every form that tar writes is read, and nothing is written elsewhere."""

from __future__ import annotations

import io
import os
import stat
import tarfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from harness.memory_disk import Pipe
from kronos.transfer.stream import BadStream, PrematureEnd, Reader
from kronos.transfer.tree import ENTRY, unpack

FORMS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}
MOST = 1 << 20


def packed(files: dict[str, bytes], form: int = tarfile.GNU_FORMAT, **fields: object) -> bytes:
    """A tar file; a name that ends with a slash is a folder, `fields` are what tarfile calls them."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=form) as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            if name.endswith("/"):
                member.type = tarfile.DIRTYPE
            for field, value in fields.items():
                setattr(member, field, value)
            tar.addfile(member, io.BytesIO(content))
    return made.getvalue()


def unpacked(data: bytes, place, most: int = MOST, step: int = 1 << 30) -> dict[str, bytes]:
    place.mkdir(parents=True, exist_ok=True)
    unpack(Reader(Pipe(data, step), len(data)), place, most, lambda size: None)
    return {str(path.relative_to(place)): path.read_bytes() for path in place.rglob("*") if path.is_file()}


def refused(data: bytes, place, most: int = MOST) -> str:
    with pytest.raises(BadStream) as found:
        unpacked(data, place, most)
    return str(found.value)


@pytest.mark.parametrize("form", FORMS)
def test_each_form_of_tar_is_read(tmp_path, form):
    files = {"Release": b"r" * 700, "pool/" + "long/" * 20 + "a_1%3a2~b+c.deb": b"deb", "empty": b""}
    if form != "ustar":
        files |= {"pool/" + "n" * 150: b"x" * 512, "fr\u00fch": b"1"}
    assert unpacked(packed(files, FORMS[form]), tmp_path / "tree", step=100) == files


def test_the_folder_itself_may_be_named_as_tar_names_it(tmp_path):
    data = packed({"./": b"", "./dists/": b"", "./dists/Release": b"r", "./Packages": b"p"})
    assert unpacked(data, tmp_path / "tree") == {"dists/Release": b"r", "Packages": b"p"}


def test_modes_and_owners_are_not_taken_over(tmp_path):
    unpacked(packed({"a": b"x"}, mode=0o6777, uid=1000), tmp_path / "tree")
    found = (tmp_path / "tree/a").stat()
    assert stat.S_IMODE(found.st_mode) & 0o7133 == 0 and found.st_uid == os.getuid()


@pytest.mark.parametrize(
    "name",
    ["/etc/x", "../x", "a/../../x", "a//b", "a/./b", "..", "/", "././x", "a\nb", "x" * 256, "a/" * 33 + "b"],
)
def test_a_name_that_may_lie_elsewhere_is_refused(tmp_path, name):
    refused(packed({name: b"x"}), tmp_path / "a/tree")
    assert not (tmp_path / "x").exists() and not (tmp_path / "a/x").exists()


@pytest.mark.parametrize("kind", ["SYMTYPE", "LNKTYPE", "CHRTYPE", "BLKTYPE", "FIFOTYPE", "CONTTYPE"])
def test_links_and_devices_are_refused(tmp_path, kind):
    data = packed({"a": b""}, type=getattr(tarfile, kind), linkname="/etc/passwd")
    assert refused(data, tmp_path / "tree") == "'a' is neither a file nor a folder"
    assert list((tmp_path / "tree").iterdir()) == []


@pytest.mark.parametrize("files", [{"a": b"", "./a": b""}, {"a/b": b"", "a": b""}, {"a": b"", "a/b": b""}])
def test_a_name_that_comes_twice_is_refused(tmp_path, files):
    refused(packed(files), tmp_path / "tree")


def test_a_sparse_file_is_refused(tmp_path):
    data = packed({"a": b""}, tarfile.PAX_FORMAT, pax_headers={"GNU.sparse.size": "1"})
    assert refused(data, tmp_path / "tree") == "a sparse file"


def test_what_is_too_large_is_refused_before_it_is_written(tmp_path):
    assert (
        refused(packed({"a": b"x" * 1000}), tmp_path / "tree", ENTRY + 999)
        == f"more than {ENTRY + 999} bytes"
    )
    assert list((tmp_path / "tree").iterdir()) == []
    assert unpacked(packed({"a": b"x" * 1000}), tmp_path / "fits", ENTRY + 1000)


def test_many_empty_files_and_folders_count_too(tmp_path):
    refused(packed({f"{number}": b"" for number in range(11)}), tmp_path / "files", 10 * ENTRY)
    refused(packed({"/".join("abcdefghijk"): b""}), tmp_path / "folders", 10 * ENTRY)


def test_a_stream_that_breaks_off_anywhere_is_an_error(tmp_path):
    data = packed({"a": b"x" * 600, "b": b"y"})
    data = data[: data.rindex(b"y") + 512]  # less the end of the archive
    for number, length in enumerate((0, 100, 512, 700, 1536, 2048, len(data))):
        with pytest.raises(PrematureEnd):
            unpacked(data[:length], tmp_path / str(number))


PARTS = some.text(some.characters(categories=("L", "N", "P")), min_size=1, max_size=60)
NAMES = some.lists(PARTS, min_size=1, max_size=5)


@settings(max_examples=60, deadline=None)
@given(
    some.dictionaries(NAMES.map("/".join), some.binary(max_size=1100), max_size=6),
    some.sampled_from(sorted(FORMS)),
)
def test_what_is_unpacked_is_what_was_packed_or_nothing(tmp_path_factory, files, form):
    place = tmp_path_factory.mktemp("tree")
    try:
        data = packed(files, FORMS[form])
    except (UnicodeEncodeError, ValueError):
        return  # too long a name for the form
    try:
        found = unpacked(data, place / "inner/tree")
        plain = {
            name.removeprefix("./"): content for name, content in files.items() if not name.endswith("/")
        }
        assert found == plain
    except BadStream:
        pass
    assert [path.name for path in place.iterdir()] == ["inner"]
    assert [path.name for path in (place / "inner").iterdir()] == ["tree"]

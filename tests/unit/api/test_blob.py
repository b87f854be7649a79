"""Blobs: whose they are, and that they go with their owners."""

from __future__ import annotations

import pytest

from kronos.api import blob as blobs
from kronos.db.records import VM, Blob
from kronos.system.blobs import BlobFiles


@pytest.fixture
def kept(xapi):
    return blobs.files(xapi.machine)


def filled(xapi, ref: str) -> Blob:
    row = xapi.db.get(Blob, ref)
    blobs.files(xapi.machine).write(row.uuid, [b"bytes"])
    return row


def test_a_new_blob_is_empty(xapi):
    row = xapi.db.get(Blob, xapi("blob.create", "", False))
    assert (row.size, row.mime_type, row.public) == (0, "application/octet-stream", False)
    assert row.last_updated == "19700101T00:00:00Z"


def test_an_object_names_its_blobs(xapi):
    vm = xapi.db.create(VM)
    ref = xapi("VM.create_new_blob", vm.ref, "icon", "image/png", True)
    assert vm.blobs == {"icon": ref} and xapi.db.get(Blob, ref).name_label == "icon"
    assert xapi.refused("VM.create_new_blob", vm.ref, "icon", "image/png") == [
        "MAP_DUPLICATE_KEY", "VM", "blobs", vm.ref, "icon"]  # fmt: skip
    filled(xapi, ref)
    xapi("blob.destroy", ref)
    assert vm.blobs == {} and xapi.db.all(Blob) == []


@pytest.mark.parametrize("cls", ["host", "pool", "SR", "network"])
def test_every_kind_of_owner_may_have_one(xapi, cls):
    owner = {"host": lambda: xapi.host, "pool": lambda: xapi.pool, "SR": xapi.sr, "network": xapi.net}[cls]()
    ref = xapi(f"{cls}.create_new_blob", owner.ref, "notes", "text/plain", False)
    assert owner.blobs == {"notes": ref}


def test_a_blob_goes_with_its_owner(xapi, kept):
    vm, sr, net = xapi.db.create(VM), xapi.sr(), xapi.net()
    rows = [
        filled(xapi, xapi("VM.create_new_blob", vm.ref, "a", "", False)),
        filled(xapi, xapi("SR.create_new_blob", sr.ref, "a", "", False)),
        filled(xapi, xapi("network.create_new_blob", net.ref, "a", "", False)),
    ]
    xapi("VM.destroy", vm.ref)
    for pbd in sr.PBDs:
        xapi("PBD.unplug", pbd)
    xapi("SR.forget", sr.ref)
    xapi("network.destroy", net.ref)
    assert xapi.db.all(Blob) == []
    assert not any(kept.path(row.uuid).exists() for row in rows)


def test_bytes_without_a_record_go_at_the_next_start(xapi, kept):
    row = filled(xapi, xapi("blob.create", "", False))
    kept.write("of-a-blob-that-is-gone", [b"bytes"])
    (kept.directory / ".half-an-upload").write_bytes(b"by")
    blobs.tidy(xapi.db, xapi.machine)
    assert [path.name for path in kept.directory.iterdir()] == [row.uuid]


def test_an_upload_that_ends_early_leaves_what_was_there(tmp_path):
    files = BlobFiles(tmp_path / "blobs")
    files.write("uuid", [b"first"])

    def cut():
        yield b"sec"
        raise ConnectionError

    with pytest.raises(ConnectionError):
        files.write("uuid", cut())
    assert files.path("uuid").read_bytes() == b"first"
    assert [path.name for path in files.directory.iterdir()] == ["uuid"]

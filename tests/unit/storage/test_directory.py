"""An SR in a directory whose files somebody else can write, too."""

from __future__ import annotations

import errno
import json
import os
import struct
import uuid as uuids
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kronos.datamodel.errors import Failure
from kronos.storage.base import Volume
from kronos.storage.directory.sidecar import BadSidecar, Intent, Sidecar, read_intent, read_sidecar
from kronos.storage.faults import as_failures
from kronos.storage.file import FileDriver
from kronos.storage.images import image, qcow2
from kronos.system.commands import run

MIB = 1 << 20
SR = str(uuids.uuid4())


def new() -> str:
    return str(uuids.uuid4())


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "sr"


@pytest.fixture
def driver(root: Path) -> FileDriver:
    made = FileDriver(SR, location=str(root))
    made.create(0)
    made.attach()
    return made


def put(path: Path, backing: str = "", form: str = "") -> Path:
    with path.open("w+b") as file:
        qcow2.write_empty(file, MIB, backing, form)
    return path


def managed(driver: FileDriver) -> dict[str, Volume]:
    return {each.uuid: each for each in driver.scan() if each.managed}


def refusal(call: Callable[..., object], *args: object) -> str:
    with pytest.raises(Failure) as caught:
        call(*args)
    return caught.value.code


# What lies there without having been made here.


def test_an_image_named_by_a_uuid_is_a_disk(driver: FileDriver, root: Path) -> None:
    uuid = new()
    put(root / f"{uuid}.qcow2")
    found = managed(driver)[uuid]
    assert (found.virtual_size, found.format, found.location) == (MIB, "qcow2", f"{uuid}.qcow2")


def test_such_a_disk_can_be_named_snapshot_and_destroyed(driver: FileDriver, root: Path) -> None:
    uuid = new()
    put(root / f"{uuid}.qcow2")
    assert driver.volume_update(uuid, name_label="found").location == f"{uuid}.qcow2"
    run(["qemu-io", "-f", "qcow2", "-c", "write 0 64k", str(driver.volume_attach(uuid, True).path)])
    snapshot = driver.volume_snapshot(uuid, new())
    assert len({each.uuid for each in driver.scan()}) == 3
    for each in (uuid, snapshot.uuid):
        driver.volume_destroy(each)
    assert driver.scan() == []


def test_a_found_disk_is_destroyed_without_ever_being_used(driver: FileDriver, root: Path) -> None:
    uuid = new()
    put(root / f"{uuid}.qcow2")
    driver.volume_destroy(uuid)
    assert driver.scan() == [] and not list(root.glob("*.qcow2"))


def test_other_images_wait_to_be_introduced(driver: FileDriver, root: Path) -> None:
    put(root / "debian 12.qcow2")
    (root / "data.raw").write_bytes(bytes(1000))
    (root / "README").write_text("hello")
    assert driver.scan() == []
    found = driver.volume_introduce(new(), "debian 12.qcow2")
    assert (found.name_label, found.location, found.virtual_size) == ("debian 12", "debian 12.qcow2", MIB)
    raw = driver.volume_introduce(new(), "data.raw")
    assert (raw.format, raw.virtual_size) == ("raw", 1024)
    assert managed(driver).keys() == {found.uuid, raw.uuid}
    assert (root / "README").exists()


def test_an_introduced_image_keeps_its_content_and_goes_when_destroyed(
    driver: FileDriver, root: Path
) -> None:
    run(["qemu-io", "-f", "qcow2", "-c", "write -P 7 0 64k", str(put(root / "golden.qcow2"))])
    uuid = driver.volume_introduce(new(), "golden.qcow2").uuid
    kept = driver.volume_snapshot(uuid, new()).uuid
    for each in (uuid, kept):
        path = driver.volume_attach(each, False).path
        run(["qemu-io", "-r", "-f", "qcow2", "-c", "read -P 7 0 64k", str(path)])
        driver.volume_destroy(each)
    assert not list(root.glob("*.qcow2"))


def test_a_parent_that_was_never_ours_stays(driver: FileDriver, root: Path) -> None:
    put(root / "golden.qcow2")
    uuid = new()
    put(root / f"{uuid}.qcow2", "golden.qcow2", "qcow2")
    assert managed(driver).keys() == {uuid}
    driver.volume_destroy(uuid)
    assert (root / "golden.qcow2").exists()


def test_a_parent_cannot_be_introduced(driver: FileDriver, root: Path) -> None:
    put(root / "golden.qcow2")
    put(root / "child.qcow2", "golden.qcow2", "qcow2")
    assert refusal(driver.volume_introduce, new(), "golden.qcow2") == "LOCATION_NOT_UNIQUE"


def test_a_head_cannot_be_introduced_again(driver: FileDriver, root: Path) -> None:
    uuid = driver.volume_create(new(), MIB).uuid
    name = driver.volume_attach(uuid, True).path.name
    assert refusal(driver.volume_introduce, new(), name) == "LOCATION_NOT_UNIQUE"
    assert refusal(driver.volume_introduce, Path(name).stem, name) == "LOCATION_NOT_UNIQUE"


def test_a_bare_directory_of_disks_can_be_attached(root: Path) -> None:
    root.mkdir()
    uuid = new()
    put(root / f"{uuid}.qcow2")
    driver = FileDriver(SR, location=str(root))
    driver.attach()
    assert managed(driver).keys() == {uuid}


def killed_after(steps: int, work: Callable[[], object]) -> bool:
    """Do it in a process that is killed before it has changed the disk so many times and once more. Whether it was."""
    child = os.fork()
    if child == 0:
        done = iter(range(steps))

        def counted(step: Callable[..., object]) -> Callable[..., object]:
            def counting(*args: object, **fields: object) -> object:
                if next(done, None) is None:
                    os._exit(9)
                return step(*args, **fields)

            return counting

        os.fsync = counted(os.fsync)  # type: ignore[assignment]
        for name in ("mkdir", "replace", "unlink", "rmdir"):
            setattr(Path, name, counted(getattr(Path, name)))
        work()
        os._exit(0)
    return os.waitpid(child, 0)[1] != 0


@pytest.mark.parametrize("steps", range(5))
def test_a_creation_that_was_killed_is_discarded_and_made_anew(root: Path, steps: int) -> None:
    made = FileDriver(SR, location=str(root))
    assert killed_after(steps, lambda: made.create(0)) == (steps < 4)
    FileDriver(SR, location=str(root)).discard()
    FileDriver(new(), location=str(root)).create(0)


@pytest.mark.parametrize("steps", range(6))
def test_a_destruction_that_was_killed_is_finished(driver: FileDriver, root: Path, steps: int) -> None:
    assert killed_after(steps, driver.destroy) == (steps < 5)
    driver.detach()
    FileDriver(SR, location=str(root)).discard()
    assert not root.exists()


def test_discarding_leaves_a_directory_of_others_as_it_is(root: Path) -> None:
    root.mkdir()
    for name in (".lock", "holiday.jpg"):
        (root / name).touch()
    FileDriver(SR, location=str(root)).discard()
    assert sorted(os.listdir(root)) == [".lock", "holiday.jpg"]


@pytest.mark.parametrize("content", [None, "passwd", "lost+found"])
def test_another_directory_is_not_taken_for_an_sr(root: Path, content: str | None) -> None:
    root.mkdir()
    if content:
        (root / content).mkdir()
    assert refusal(FileDriver(SR, location=str(root)).attach) == "SR_BACKEND_FAILURE_47"


def test_the_sr_of_another_uuid_is_not_attached(driver: FileDriver, root: Path) -> None:
    other = FileDriver(new(), location=str(root))
    assert refusal(other.attach) == "SR_BACKEND_FAILURE_47"
    assert [each.sr_uuid for each in other.probe()] == [SR]


def test_an_sr_is_made_on_a_new_file_system(root: Path) -> None:
    (root / "lost+found").mkdir(parents=True)
    FileDriver(SR, location=str(root)).create(0)


def test_probe_offers_an_empty_directory_and_nothing_else(root: Path) -> None:
    driver = FileDriver(SR, location=str(root))
    assert driver.probe() == []
    root.mkdir()
    assert [each.sr_uuid for each in driver.probe()] == [""]
    (root / "file").touch()
    assert driver.probe() == []


# What must not be opened.


def outside_backing(root: Path) -> None:
    secret = root.parent / "secret.qcow2"
    put(secret)


EVIL_BACKING = [
    ("/etc/passwd", "raw"),
    ("../secret.qcow2", "qcow2"),
    ("json:{}", "qcow2"),
    ("nbd://evil/x.qcow2", "qcow2"),
    ("file:x.qcow2", "qcow2"),
    (".hidden.qcow2", "qcow2"),
    ("victim.raw", "qcow2"),
    ("victim.qcow2", "raw"),
    ("victim.qcow2", ""),
    ("missing.qcow2", "qcow2"),
    ("link.qcow2", "qcow2"),
]


@pytest.mark.parametrize("backing, form", EVIL_BACKING)
def test_an_image_that_leads_elsewhere_is_shown_but_not_opened(
    driver: FileDriver, root: Path, backing: str, form: str
) -> None:
    outside_backing(root)
    put(root / "victim.qcow2")
    (root / "victim.raw").write_bytes(bytes(512))
    (root / "link.qcow2").symlink_to("../secret.qcow2")
    uuid = new()
    put(root / f"{uuid}.qcow2", backing, form)
    shown = managed(driver)[uuid]
    assert shown.virtual_size == 0 and shown.sm_config["error"]
    for call in (driver.volume_attach, driver.volume_resize):
        assert refusal(call, uuid, MIB) == "SR_BACKEND_FAILURE_46"
    assert refusal(driver.volume_snapshot, uuid, new()) == "SR_BACKEND_FAILURE_46"
    assert refusal(driver.volume_clone, uuid, new()) == "SR_BACKEND_FAILURE_46"
    assert refusal(driver.volume_introduce, uuid, f"{uuid}.qcow2") == "SR_BACKEND_FAILURE_46"
    driver.volume_destroy(uuid)
    assert uuid not in managed(driver)
    assert (root / "victim.qcow2").exists() and (root.parent / "secret.qcow2").exists()


def test_a_backing_file_added_behind_our_back_is_seen_at_attach(driver: FileDriver, root: Path) -> None:
    uuid = driver.volume_create(new(), MIB).uuid
    put(driver.volume_attach(uuid, True).path, "/etc/passwd", "raw")
    assert refusal(driver.volume_attach, uuid, False) == "SR_BACKEND_FAILURE_46"


def test_a_circle_of_images_is_refused(driver: FileDriver, root: Path) -> None:
    put(root / "b.qcow2", "c.qcow2", "qcow2")
    put(root / "c.qcow2", "b.qcow2", "qcow2")
    uuid = new()
    put(root / f"{uuid}.qcow2", "b.qcow2", "qcow2")
    assert "endless" in managed(driver)[uuid].sm_config["error"]
    assert refusal(driver.volume_attach, uuid, False) == "SR_BACKEND_FAILURE_46"


@pytest.mark.parametrize("kind", ["link", "directory", "pipe"])
def test_what_is_no_file_is_no_disk(driver: FileDriver, root: Path, kind: str) -> None:
    uuid = new()
    path = root / f"{uuid}.qcow2"
    put(root.parent / "outside.qcow2")
    make: dict[str, Callable[[], object]] = {
        "link": lambda: path.symlink_to(root.parent / "outside.qcow2"),
        "directory": path.mkdir,
        "pipe": lambda: os.mkfifo(path),
    }
    make[kind]()
    assert managed(driver)[uuid].sm_config["error"]
    assert refusal(driver.volume_attach, uuid, False) == "SR_BACKEND_FAILURE_46"


def test_a_raw_disk_stays_raw_whatever_its_guest_writes(driver: FileDriver, root: Path) -> None:
    uuid = driver.volume_create(new(), MIB, sm_config={"type": "raw"}).uuid
    path = driver.volume_attach(uuid, True).path
    with path.open("r+b") as guest:
        header = bytearray(MIB)
        header[: 3 * 65536] = put(root.parent / "evil.qcow2", "/etc/passwd", "raw").read_bytes()[: 3 * 65536]
        guest.write(header)
    assert driver.volume_attach(uuid, True).format == "raw"
    snapshot = driver.volume_snapshot(uuid, new())
    top = driver.volume_attach(snapshot.uuid, False)
    assert top.format == "qcow2"
    assert '"backing-filename-format": "raw"' in run(["qemu-img", "info", "--output=json", str(top.path)])
    assert image.inspect(top.path).backing == path.name


def test_a_raw_disk_is_made_grown_and_destroyed(driver: FileDriver, root: Path) -> None:
    uuid = driver.volume_create(new(), MIB, sm_config={"type": "raw"}).uuid
    assert driver.volume_resize(uuid, 3 * MIB).virtual_size == 3 * MIB
    assert driver.volume_attach(uuid, True).path.stat().st_size == 3 * MIB
    driver.volume_destroy(uuid)
    assert driver.scan() == []


# What is damaged.


def test_a_volume_whose_file_is_gone_is_shown_and_can_be_destroyed(driver: FileDriver) -> None:
    uuid = driver.volume_create(new(), MIB).uuid
    driver.volume_attach(uuid, True).path.unlink()
    assert "missing" in managed(driver)[uuid].sm_config["error"]
    driver.volume_destroy(uuid)
    assert driver.scan() == []


def test_a_sidecar_that_cannot_be_read_keeps_every_image(driver: FileDriver, root: Path) -> None:
    uuid = driver.volume_create(new(), MIB).uuid
    image_name = driver.volume_attach(uuid, True).path.name
    (root / f"{uuid}.json").write_text("{")
    other = driver.volume_create(new(), MIB).uuid
    driver.volume_destroy(other)
    shown = managed(driver)
    assert shown[uuid].sm_config["error"] and other not in shown
    assert refusal(driver.volume_attach, uuid, False) == "SR_BACKEND_FAILURE_46"
    assert (root / image_name).exists()
    driver.volume_destroy(uuid)
    assert managed(driver).keys() == {Path(image_name).stem}


def test_an_image_that_cannot_be_read_holds_back_the_removal_of_parents(
    driver: FileDriver, root: Path
) -> None:
    """It may be a child. What waits goes when the doubt is gone, and is not shown meanwhile."""
    uuid = driver.volume_create(new(), MIB).uuid
    path = driver.volume_attach(uuid, True).path
    doubt = root / f"{new()}.qcow2"
    doubt.write_bytes(b"?")
    driver.volume_destroy(uuid)
    assert path.exists() and managed(driver).keys() == {doubt.stem}
    driver.volume_destroy(doubt.stem)
    assert driver.scan() == []
    assert not path.exists()


def test_two_unreadable_images_do_not_keep_each_other(driver: FileDriver, root: Path) -> None:
    stems = [new(), new()]
    for stem in stems:
        (root / f"{stem}.qcow2").write_bytes(b"?")
    for stem in stems:
        driver.volume_destroy(stem)
    assert driver.scan() == [] and not list(root.glob("*.qcow2"))


def test_a_name_of_a_mebibyte_is_refused_before_anything_happens(driver: FileDriver) -> None:
    with pytest.raises(Failure, match="SR_BACKEND_FAILURE_1"):
        driver.volume_create(new(), MIB, name_label="x" * (1 << 20))
    assert driver.scan() == []


@pytest.mark.parametrize(
    "number, code",
    [
        (errno.ENOSPC, "SR_BACKEND_FAILURE_44"),
        (errno.EDQUOT, "SR_BACKEND_FAILURE_44"),
        (errno.ESTALE, "SR_BACKEND_FAILURE_47"),
        (errno.EROFS, "SR_BACKEND_FAILURE_47"),
        (errno.EPERM, "SR_BACKEND_FAILURE_202"),
    ],
)
def test_errors_of_the_system_become_faults(number: int, code: str) -> None:
    with pytest.raises(Failure, match=code), as_failures():
        raise OSError(number, os.strerror(number))


def test_images_are_for_root_alone(driver: FileDriver, root: Path) -> None:
    driver.volume_create(new(), MIB)
    assert {path.stat().st_mode & 0o077 for path in root.iterdir()} == {0}


# Sidecars from outside.


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
NAMES = st.sampled_from([*Sidecar.__dataclass_fields__, *Intent.__dataclass_fields__])


@settings(max_examples=300, deadline=None)
@given(
    st.binary(max_size=60) | st.dictionaries(NAMES, JSON).map(lambda d: repr({"version": 1, **d}).encode())
)
def test_noise_is_no_sidecar(raw: bytes) -> None:
    for read in (lambda: read_sidecar(SR, raw), lambda: read_intent(raw)):
        try:
            found = read()
        except BadSidecar:
            continue
        assert isinstance(found, Intent) and not any(found.files)


@settings(max_examples=150, deadline=None)
@given(changes=st.dictionaries(NAMES, JSON, min_size=1))
def test_a_sidecar_with_values_of_other_kinds_is_refused_or_sound(changes: dict[str, object]) -> None:
    good = json.loads(Sidecar(SR, "x.qcow2", "x").encode())
    try:
        found = read_sidecar(SR, json.dumps({**good, **changes}).encode())
    except BadSidecar:
        return
    assert image.is_plain(found.head) and image.format_of(found.head)
    assert isinstance(found.name_label, str) and isinstance(found.read_only, bool)
    assert read_sidecar(SR, found.encode()) == found


@pytest.mark.parametrize("head", ["../x.qcow2", "/etc/passwd", "x", "", ".x.qcow2", "a/b.raw", "nbd:x.qcow2"])
def test_a_head_outside_the_directory_is_refused(driver: FileDriver, root: Path, head: str) -> None:
    uuid = new()
    (root / f"{uuid}.json").write_bytes(Sidecar(uuid, head, "x").encode())
    assert managed(driver)[uuid].sm_config["error"]
    assert refusal(driver.volume_attach, uuid, False) == "SR_BACKEND_FAILURE_46"


def test_an_intent_with_paths_removes_nothing(driver: FileDriver, root: Path) -> None:
    outside = put(root.parent / "outside.qcow2")
    name = f".intent-{new()}.json"
    (root / name).write_bytes(Intent(files=("../outside.qcow2",)).encode())
    driver.scan()
    assert outside.exists()


@given(st.text(max_size=300))
def test_plain_names_stay_in_their_directory(name: str) -> None:
    if image.is_plain(name):
        assert os.path.normpath(os.path.join("/sr", name)) == f"/sr/{name}"
        assert not name.startswith(".") and ":" not in name
        struct.pack(f"{len(os.fsencode(name))}s", os.fsencode(name))

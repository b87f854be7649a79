"""SR types are found by looking, and say what they can do by what they override."""

from __future__ import annotations

import uuid as uuids

import pytest

from kronos.datamodel.errors import Failure
from kronos.storage import registry
from kronos.storage.file import FileDriver
from kronos.storage.iso import IsoDriver

# The capabilities that xapi knows; a name that is not among them would be lost on every client.
KNOWN = set(
    """SR_CREATE SR_DELETE SR_ATTACH SR_DETACH SR_SCAN SR_PROBE SR_UPDATE SR_SUPPORTS_LOCAL_CACHING SR_METADATA
    SR_TRIM SR_MULTIPATH SR_STATS VDI_CREATE VDI_DELETE VDI_ATTACH VDI_DETACH VDI_MIRROR VDI_MIRROR_IN VDI_RESIZE
    VDI_RESIZE_ONLINE VDI_CLONE VDI_SNAPSHOT VDI_ACTIVATE VDI_ACTIVATE_READONLY VDI_DEACTIVATE VDI_UPDATE
    VDI_INTRODUCE VDI_GENERATE_CONFIG VDI_ATTACH_OFFLINE VDI_RESET_ON_BOOT VDI_CONFIG_CBT VDI_COMPOSE VDI_REVERT
    LARGE_VDI THIN_PROVISIONING VDI_READ_CACHING""".split()
)
UUID = str(uuids.UUID(int=1))


def test_types_are_the_names_of_modules() -> None:
    assert registry.drivers()["file"] is FileDriver
    assert registry.drivers()["iso"] is IsoDriver


def test_the_fake_is_not_offered_to_users() -> None:
    assert "fake" not in registry.drivers()
    assert "fake" in registry.drivers(for_tests=True)


def test_a_directory_knows_its_own_type() -> None:
    for name, each in registry.drivers().items():
        assert getattr(each, "type", name) == name


@pytest.mark.parametrize("sr_type", sorted(registry.drivers(for_tests=True)))
def test_every_type_describes_itself(sr_type: str) -> None:
    info = registry.describe(sr_type)
    assert info.type == sr_type and info.required_api_version == "1.0"
    assert all((info.name, info.description, info.vendor, info.copyright, info.version))
    assert set(info.capabilities) <= KNOWN
    assert info.features == {each: 1 for each in info.capabilities}
    assert all(info.configuration.values())
    assert set(info.supported_image_formats) <= {"raw", "vhd", "qcow2"}


def test_capabilities_are_the_methods_that_are_overridden() -> None:
    can = registry.describe("file").capabilities
    assert {"VDI_CREATE", "VDI_SNAPSHOT", "VDI_CLONE", "VDI_RESIZE", "SR_PROBE", "LARGE_VDI"} <= set(can)
    only_reads = registry.describe("iso").capabilities
    assert {"VDI_ATTACH", "SR_SCAN"} <= set(only_reads)
    assert not {"VDI_CREATE", "VDI_DELETE", "VDI_SNAPSHOT", "VDI_RESIZE"} & set(only_reads)


def test_device_config_becomes_arguments() -> None:
    driver = registry.build("file", UUID, {"location": "/srv/disks", "SRmaster": "true"})
    assert isinstance(driver, FileDriver) and str(driver.root) == "/srv/disks"


@pytest.mark.parametrize(
    "sr_type, config, code",
    [
        ("nothing", {}, "SR_UNKNOWN_DRIVER"),
        ("base", {}, "SR_UNKNOWN_DRIVER"),
        ("directory", {}, "SR_UNKNOWN_DRIVER"),
        ("file", {}, "SR_BACKEND_FAILURE_94"),
        ("file", {"location": ""}, "SR_BACKEND_FAILURE_94"),
        ("file", {"location": "relative"}, "SR_BACKEND_FAILURE_1"),
        ("file", {"location": "/srv/../etc"}, "SR_BACKEND_FAILURE_1"),
        ("file", {"location": "/srv\n"}, "SR_BACKEND_FAILURE_1"),
        ("file", {"location": "/srv", "path": "/srv"}, "SR_BACKEND_FAILURE_1"),
        ("ext", {}, "SR_BACKEND_FAILURE_90"),
        ("ext", {"device": "sdb"}, "SR_BACKEND_FAILURE_91"),
        ("ext", {"device": "/dev/sdb,"}, "SR_BACKEND_FAILURE_91"),
        ("ext", {"device": "/dev/../etc/passwd"}, "SR_BACKEND_FAILURE_91"),
        ("iso", {}, "SR_BACKEND_FAILURE_220"),
        ("iso", {"location": "server:/export"}, "SR_BACKEND_FAILURE_226"),
    ],
)
def test_wrong_device_config_is_refused(sr_type: str, config: dict[str, str], code: str) -> None:
    with pytest.raises(Failure) as caught:
        registry.build(sr_type, UUID, config)
    assert caught.value.code == code
    if code.startswith("SR_BACKEND"):
        first, reason, last = caught.value.params
        assert first == last == "" and reason

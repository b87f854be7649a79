"""The SR types there are: one module of this package for each, found by looking.

A module `<type>.py` with one concrete StorageDriver is a driver, and the file's name is the SR's type. Capabilities
are the optional methods that the class overrides; device_config's keys are the keyword arguments of its `__init__`.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import kronos.storage
from kronos.datamodel.errors import Failure
from kronos.storage.base import StorageDriver
from kronos.storage.faults import Fault

# XenAPI's name of a capability for each method of StorageDriver. The names are those that xapi knows.
_CAPABILITIES: Mapping[str, str] = {
    "create": "SR_CREATE",
    "destroy": "SR_DELETE",
    "attach": "SR_ATTACH",
    "detach": "SR_DETACH",
    "scan": "SR_SCAN",
    "stat": "SR_UPDATE",
    "probe": "SR_PROBE",
    "volume_create": "VDI_CREATE",
    "volume_destroy": "VDI_DELETE",
    "volume_attach": "VDI_ATTACH",
    "volume_detach": "VDI_DETACH",
    "volume_resize": "VDI_RESIZE",
    "volume_snapshot": "VDI_SNAPSHOT",
    "volume_clone": "VDI_CLONE",
    "volume_revert": "VDI_REVERT",
    "volume_update": "VDI_UPDATE",
    "volume_introduce": "VDI_INTRODUCE",
}
# xapi adds it for the coordinator of a pool; which host may do what is decided before a driver is asked.
_NOT_FOR_DRIVERS = frozenset({"SRmaster"})


@dataclass(frozen=True)
class DriverInfo:
    """An SM record's content."""

    type: str
    name: str
    description: str
    vendor: str
    copyright: str
    version: str
    required_api_version: str
    capabilities: tuple[str, ...]
    features: Mapping[str, int]
    configuration: Mapping[str, str]
    supported_image_formats: tuple[str, ...]
    content_type: str


@cache
def _all() -> Mapping[str, type[StorageDriver]]:
    found: dict[str, type[StorageDriver]] = {}
    for module in pkgutil.iter_modules(kronos.storage.__path__):
        if module.ispkg:
            continue
        content = importlib.import_module(f"{kronos.storage.__name__}.{module.name}")
        for _, each in inspect.getmembers(content, inspect.isclass):
            own = each.__module__ == content.__name__
            if own and issubclass(each, StorageDriver) and not inspect.isabstract(each):
                assert module.name not in found, f"two drivers in {module.name}.py"
                found[module.name] = each
    return found


def drivers(*, for_tests: bool = False) -> dict[str, type[StorageDriver]]:
    """SR type -> driver; those that only tests use are left out unless asked for."""
    return {name: each for name, each in _all().items() if for_tests or not each.for_tests}


def driver(sr_type: str) -> type[StorageDriver]:
    """Raises SR_UNKNOWN_DRIVER."""
    try:
        return _all()[sr_type]
    except KeyError:
        raise Failure("SR_UNKNOWN_DRIVER", sr_type) from None


def build(sr_type: str, sr_uuid: str, device_config: Mapping[str, str]) -> StorageDriver:
    """A driver for one SR on this host, not attached yet.

    Raises SR_UNKNOWN_DRIVER, SR_BACKEND_FAILURE_1 for a key the type does not have, and the type's own fault for
    one that is missing (94 for a location).
    """
    kind = driver(sr_type)
    options = {key: value for key, value in device_config.items() if key not in _NOT_FOR_DRIVERS}
    if unknown := sorted(options.keys() - _keys(kind)):
        raise Fault.INVALID_ARGUMENT.failure(f"unknown device-config: {', '.join(unknown)}")
    return kind(sr_uuid, **options)


def describe(sr_type: str) -> DriverInfo:
    """What the SM record of an SR type says. Raises SR_UNKNOWN_DRIVER."""
    kind = driver(sr_type)
    names = {
        capability
        for method, capability in _CAPABILITIES.items()
        if getattr(kind, method) is not getattr(StorageDriver, method)
    }
    capabilities = tuple(sorted(names | kind.traits))
    return DriverInfo(
        type=sr_type,
        name=kind.label,
        description=kind.description,
        vendor="Kronos",
        copyright="The Kronos authors",
        version=kind.version,
        required_api_version="1.0",
        capabilities=capabilities,
        features=dict.fromkeys(capabilities, 1),
        configuration={key: kind.configuration.get(key, "") for key in sorted(_keys(kind))},
        supported_image_formats=kind.image_formats,
        content_type=kind.content_type,
    )


def _keys(kind: type[StorageDriver]) -> frozenset[str]:
    parameters = inspect.signature(kind).parameters.values()
    return frozenset(each.name for each in parameters if each.kind is inspect.Parameter.KEYWORD_ONLY)

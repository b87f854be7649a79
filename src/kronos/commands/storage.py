"""Storage repositories and virtual disk images."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from typing import Any

from kronos.commands import call, fields, grammar, progress
from kronos.commands.errors import CommandError
from kronos.commands.invocation import Invocation, command
from kronos.commands.protocol import NULL

_VDI_TYPES = ("system", "user", "suspend", "crashdump")
_EPOCH = "19700101T00:00:00Z"
_FROM_FILE = "-filename"


def _host(invocation: Invocation, coordinator: bool = True) -> str:
    """The host of `host-uuid=`; else the coordinator, or the only host there is."""
    if "host-uuid" in invocation.arguments:
        return invocation.ref("host", "host-uuid")
    if not coordinator and len(invocation.api("host.get_all")) > 1:
        raise CommandError("Required parameter not found: host-uuid")
    pool = invocation.api("pool.get_all")[0]
    master: str = invocation.api("pool.get_master", pool)
    return master


@command("sr-create")
def sr_create(invocation: Invocation) -> None:
    arguments = invocation.arguments
    shared = arguments.flag("shared")
    host = _host(invocation, coordinator=shared)
    config = {
        key.removesuffix(_FROM_FILE): call.client_file(invocation, given)
        if key.endswith(_FROM_FILE)
        else given
        for key, given in arguments.mapping("device-config").items()
    }
    sr = invocation.api.task(
        "SR.create",
        host,
        config,
        arguments.size("physical-size") if "physical-size" in arguments else 0,
        arguments["name-label"],
        arguments.get("name-description"),
        arguments["type"],
        arguments.get("content-type"),
        shared,
        arguments.mapping("sm-config"),
    )
    invocation.print_uuid("SR", sr)


def _probed(invocation: Invocation, message: str) -> Any:
    arguments = invocation.arguments
    return invocation.api(
        message,
        _host(invocation),
        arguments.mapping("device-config"),
        arguments["type"],
        arguments.mapping("sm-config"),
    )


@command("sr-probe")
def sr_probe(invocation: Invocation) -> None:
    invocation.printer.line(_probe_text(_probed(invocation, "SR.probe")))


def _probe_text(answer: str) -> str:
    """The document within: some backends wrap it once more, as an XML-RPC pair of 'Raw' and a string."""
    if "Raw" not in answer[:200]:
        return answer
    try:
        # The storage's own answer, which the daemon wrote.
        values = list(ElementTree.fromstring(answer).iter("value"))  # noqa: S314
    except ElementTree.ParseError:
        return answer
    texts = ["".join(value.itertext()).strip() for value in values]
    if len(texts) == 3 and texts[1] == "Raw":
        return texts[2]
    return answer


@command("sr-probe-ext")
def sr_probe_ext(invocation: Invocation) -> None:
    found = _probed(invocation, "SR.probe_ext")
    with_sr = [entry for entry in found if entry.get("sr")]
    complete = [entry for entry in found if not entry.get("sr") and entry["complete"]]
    incomplete = [entry for entry in found if not entry.get("sr") and not entry["complete"]]
    printer = invocation.printer
    if with_sr:
        printer.message("The following SRs were found:")
    for number, entry in enumerate(with_sr):
        printer.message(f"SR {number}:")
        printer.record(_sr_stat(entry["sr"]))
        printer.message(f"SR {number} configuration:")
        printer.record(list(entry["configuration"].items()))
        printer.message(f"SR {number} extra information:")
        printer.record(list(entry["extra_info"].items()))
    for heading, entries in (
        ("Found the following complete configurations that can be used to create SRs:", complete),
        ("Found the following incomplete configurations that may contain SRs:", incomplete),
    ):
        if entries:
            printer.message(heading)
        for number, entry in enumerate(entries):
            printer.message(f"Configuration {number}:")
            printer.record(list(entry["configuration"].items()))
            printer.message(f"Configuration {number} extra information:")
            printer.record(list(entry["extra_info"].items()))


def _sr_stat(stat: dict[str, Any]) -> list[tuple[str, str]]:
    names = ("uuid", "name_label", "name_description", "total_space", "free_space", "clustered", "health")
    return [
        (name.replace("_", "-"), fields.plain(stat[name])) for name in names if stat.get(name) is not None
    ]


@command("vdi-create")
def vdi_create(invocation: Invocation) -> None:
    arguments = invocation.arguments
    record = {
        "name_label": arguments["name-label"],
        "name_description": arguments.get("name-description"),
        "SR": invocation.ref("SR", "sr-uuid"),
        "virtual_size": arguments.size("virtual-size"),
        "type": grammar.one_of("vdi type", arguments.get("type", "user"), _VDI_TYPES),
        "sharable": arguments.flag("sharable"),
        "read_only": False,
        "xenstore_data": {},
        "other_config": {},
        "sm_config": arguments.mapping("sm-config"),
        "tags": list(arguments.mapping("tags")),
    }
    invocation.print_uuid("VDI", invocation.api("VDI.create", record))


@command("vdi-introduce")
def vdi_introduce(invocation: Invocation) -> None:
    arguments = invocation.arguments
    vdi = invocation.api(
        "VDI.introduce",
        arguments["uuid"],
        arguments.get("name-label"),
        arguments.get("name-description"),
        invocation.ref("SR", "sr-uuid"),
        grammar.one_of("vdi type", arguments["type"], _VDI_TYPES),
        arguments.flag("sharable"),
        arguments.flag("read-only"),
        arguments.mapping("other-config"),
        arguments["location"],
        arguments.mapping("xenstore-data"),
        arguments.mapping("sm-config"),
        arguments.flag("managed"),
        0,
        0,
        NULL,
        False,
        _EPOCH,
        NULL,
    )
    invocation.print_uuid("VDI", vdi)


@command("vdi-resize")
def vdi_resize(invocation: Invocation) -> None:
    message = "VDI.resize_online" if invocation.arguments.flag("online") else "VDI.resize"
    invocation.api(message, invocation.ref("VDI"), invocation.arguments.size("disk-size"))


@command("vdi-copy")
def vdi_copy(invocation: Invocation) -> None:
    arguments = invocation.arguments
    if ("sr-uuid" in arguments) == ("into-vdi-uuid" in arguments):
        raise CommandError(
            "Please specify one but not both of: a destination sr-uuid (for a fresh VDI); "
            "or a destination into-vdi-uuid (whose content is replaced)"
        )
    vdi = progress.task(
        invocation,
        "VDI.copy",
        invocation.ref("VDI"),
        invocation.ref("SR", "sr-uuid") if "sr-uuid" in arguments else NULL,
        invocation.ref("VDI", "base-vdi-uuid") if "base-vdi-uuid" in arguments else NULL,
        invocation.ref("VDI", "into-vdi-uuid") if "into-vdi-uuid" in arguments else NULL,
    )
    invocation.print_uuid("VDI", vdi)


@command("vdi-pool-migrate")
def vdi_pool_migrate(invocation: Invocation) -> None:
    arguments = invocation.arguments
    options = {"dest-img-format": arguments["dest-img-format"]} if "dest-img-format" in arguments else {}
    vdi = progress.task(
        invocation, "VDI.pool_migrate", invocation.ref("VDI"), invocation.ref("SR", "sr-uuid"), options
    )
    invocation.print_uuid("VDI", vdi)


@command("vdi-clone")
def vdi_clone(invocation: Invocation) -> None:
    arguments, api = invocation.arguments, invocation.api
    vdi = api("VDI.clone", invocation.ref("VDI"), arguments.mapping("driver-params"))
    if "new-name-label" in arguments:
        api("VDI.set_name_label", vdi, arguments["new-name-label"])
    if "new-name-description" in arguments:
        api("VDI.set_name_description", vdi, arguments["new-name-description"])
    invocation.print_uuid("VDI", vdi)

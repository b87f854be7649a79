"""Hosts: licences, editions, maintenance, and the steps that need the user's yes."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from kronos.commands import fields, reports, selectors
from kronos.commands.errors import Leave
from kronos.commands.facts import Field, record_fields
from kronos.commands.invocation import Invocation, command
from kronos.commands.records import Row
from kronos.datamodel.errors import Failure

_FORGET = (
    "WARNING: A host should only be forgotten if it is physically unrecoverable;",
    "WARNING: where possible, hosts should be 'ejected' from the pool instead.",
    "WARNING: Once forgotten, a host has to be installed anew before it can join a pool.",
    "WARNING: This operation is irreversible.",
)
_DECLARE_DEAD = (
    "WARNING: A host should only be declared dead if it is verified offline.",
    "WARNING: If it still runs VMs, this may corrupt or lose their data.",
)
_EXTERNAL_AUTH = (
    "This operation only recovers a single host that cannot reach the external authentication service. "
    "It must be forced (use --force)."
)
_FEATURES = ("features_pv", "features_hvm", "features_pv_host", "features_hvm_host")


def _careful(invocation: Invocation, message: str, warnings: Sequence[str]) -> None:
    host = invocation.ref("host")
    if not invocation.arguments.flag("force"):
        for warning in warnings:
            invocation.terminal.print(warning)
        if not invocation.confirmed():
            return
    invocation.api(message, host)


@command("host-forget")
def forget(invocation: Invocation) -> None:
    _careful(invocation, "host.destroy", _FORGET)


@command("host-declare-dead")
def declare_dead(invocation: Invocation) -> None:
    _careful(invocation, "host.declare_dead", _DECLARE_DEAD)


@command("host-enable")
def enable(invocation: Invocation) -> None:
    """Let VMs start here again, and end maintenance mode as clients know it."""

    def act(host: Row) -> None:
        invocation.api("host.remove_from_other_config", host.ref, "MAINTENANCE_MODE")
        invocation.api("host.enable", host.ref)

    selectors.for_hosts(invocation, act)


def _named_or_this(invocation: Invocation, parameter: str) -> str:
    if parameter in invocation.arguments:
        return invocation.ref("host", parameter)
    return invocation.this_host()


@command("host-cpu-info")
def cpu_info(invocation: Invocation) -> None:
    found = invocation.api("host.get_cpu_info", _named_or_this(invocation, "uuid"))
    invocation.printer.record(list(found.items()))


@command("host-get-cpu-features")
def cpu_features(invocation: Invocation) -> None:
    found = invocation.api("host.get_cpu_info", _named_or_this(invocation, "uuid"))
    invocation.printer.record([(key, found[key]) for key in _FEATURES if key in found])


@command("host-license-add")
def license_add(invocation: Invocation) -> None:
    host = _named_or_this(invocation, "host-uuid")
    content = invocation.terminal.load_file(invocation.arguments["license-file"])
    if content is None:
        invocation.terminal.print_error("Failed to read license file.\n")
        raise Leave(1)
    try:
        invocation.api("host.license_add", host, base64.b64encode(content).decode())
    except Failure as failure:
        invocation.terminal.print_error("Failed to apply license file.\n")
        raise Leave(1) from failure
    invocation.terminal.print("License applied.")


@command("host-license-view")
def license_view(invocation: Invocation) -> None:
    found = invocation.api("host.get_license_params", _named_or_this(invocation, "host-uuid"))
    invocation.printer.record([(key, value) for key, value in found.items() if key != "sku_type"])


@command("host-all-editions")
def all_editions(invocation: Invocation) -> None:
    invocation.printer.lines(invocation.api("host.get_editions", invocation.this_host()))


@command("host-apply-edition")
def apply_edition(invocation: Invocation) -> None:
    host = _named_or_this(invocation, "host-uuid")
    with _license_server(invocation, [host]):
        invocation.api("host.apply_edition", host, invocation.arguments["edition"], False)


@command("pool-apply-edition")
def pool_apply_edition(invocation: Invocation) -> None:
    pool = invocation.pool().ref
    with _license_server(invocation, invocation.api("host.get_all")):
        invocation.api("pool.apply_edition", pool, invocation.arguments["edition"])


@contextmanager
def _license_server(invocation: Invocation, hosts: Sequence[str]) -> Iterator[None]:
    """The licence server of the command line for these hosts; put back where it gives no licence."""
    api, arguments = invocation.api, invocation.arguments
    before = {host: api("host.get_license_server", host) for host in hosts}
    for key in ("address", "port"):
        value = arguments.get(f"license-server-{key}")
        if not value:
            continue
        if key == "port" and not (re.fullmatch("[0-9]{1,5}", value) and int(value) <= 65535):
            invocation.printer.remark("NOTE: The given port number is invalid and was not used.\n")
            continue
        for host in hosts:
            api("host.remove_from_license_server", host, key)
            api("host.add_to_license_server", host, key, value)
    try:
        yield
    except Failure as failure:
        if failure.code == "LICENSE_CHECKOUT_ERROR":
            for host, server in before.items():
                api("host.set_license_server", host, server)
        elif failure.code == "INVALID_EDITION":
            editions = ", ".join(api("host.get_editions", invocation.this_host()))
            invocation.printer.remark(f"Valid editions are: {editions}\n")
        raise


@command("host-apply-updates")
def apply_updates(invocation: Invocation) -> None:
    digest = invocation.arguments["hash"]

    def act(host: Row) -> None:
        for warnings in invocation.api("host.apply_updates", host.ref, digest):
            invocation.printer.message("; ".join(warnings))

    selectors.for_hosts(invocation, act, "hash", several=False)


@command("host-bugreport-upload")
def bugreport_upload(invocation: Invocation) -> None:
    """Upload the system status; any parameter but the host's selectors goes along as an option."""
    arguments = invocation.arguments
    url = arguments.get("url")
    options = {name: value for name, value in arguments.filters() if name not in ("host", "url")}

    def act(host: Row) -> None:
        invocation.api("host.bugreport_upload", host.ref, url, options)

    selectors.for_hosts(invocation, act, "url", "http_proxy")


@command("update-precheck")
def update_precheck(invocation: Invocation) -> None:
    update = invocation.ref("pool_update")
    meanings = {
        "ok": "Ok.",
        "ok_livepatch_complete": "Ok: Patch can be applied without reboot.",
        "ok_livepatch_incomplete": "Ok: Patch can be applied, but a reboot will be required.",
    }
    found = selectors.for_hosts(
        invocation, lambda host: invocation.api("pool_update.precheck", update, host.ref), "uuid"
    )
    invocation.printer.lines([meanings.get(result, result) for result in found])


@command("host-get-vms-which-prevent-evacuation")
def vms_preventing_evacuation(invocation: Invocation) -> None:
    found = invocation.api("host.get_vms_which_prevent_evacuation", invocation.ref("host"))
    reason = Field("reason")
    names = reports.names(invocation, "params", ("uuid", "name-label", "reason"))
    shown = fields.chosen(record_fields("vm"), names)
    for ref, error in found.items():
        table = fields.table(invocation.records.row("VM", ref), shown)
        if not names or "reason" in names:
            table.append((reason.name + reason.marker, ",".join(error)))
        invocation.printer.record(table)


@command("host-retrieve-wlb-evacuate-recommendations")
def wlb_evacuate_recommendations(invocation: Invocation) -> None:
    found = invocation.api("host.retrieve_wlb_evacuate_recommendations", invocation.ref("host"))
    records = invocation.records
    rows = [
        (f"{records.value('VM', ref, 'uuid')} ({records.value('VM', ref, 'name_label')})", " ".join(words))
        for ref, words in found.items()
    ]
    invocation.printer.record([("VM", "[Host, RecID] / Error"), *rows])


@command("host-enable-external-auth")
def enable_external_auth(invocation: Invocation) -> None:
    invocation.needs_force(_EXTERNAL_AUTH)
    arguments = invocation.arguments
    invocation.api(
        "host.enable_external_auth",
        invocation.ref("host", "host-uuid"),
        arguments.mapping("config"),
        arguments["service-name"],
        arguments["auth-type"],
    )


@command("host-disable-external-auth")
def disable_external_auth(invocation: Invocation) -> None:
    invocation.needs_force(_EXTERNAL_AUTH)
    host = invocation.ref("host", "host-uuid")
    invocation.api("host.disable_external_auth", host, invocation.arguments.mapping("config"), True)


@command("host-ha-xapi-healthcheck")
def ha_health(invocation: Invocation) -> None:
    """For the HA daemon: exit status 2 for an unhealthy server, 3 for one that cannot say."""
    try:
        healthy = invocation.api("host.ha_xapi_healthcheck")
    except Failure as failure:
        invocation.terminal.print_error(f"The health check failed: {failure}\n")
        raise Leave(3) from failure
    if not healthy:
        invocation.terminal.print_error("The server is not healthy\n")
        raise Leave(2)
    invocation.terminal.print("xapi is healthy.")

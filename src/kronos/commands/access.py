"""Who may do what: subjects, roles, sessions, callers; and small things that are made with one call more than usual."""

from __future__ import annotations

from kronos.commands.errors import CommandError
from kronos.commands.invocation import Invocation, command
from kronos.commands.protocol import NULL


@command("subject-add")
def subject_add(invocation: Invocation) -> None:
    identifier = invocation.api("auth.get_subject_identifier", invocation.arguments["subject-name"])
    subject = invocation.api("subject.create", {"subject_identifier": identifier, "other_config": {}})
    invocation.print_uuid("subject", subject)


@command("subject-role-add")
def subject_role_add(invocation: Invocation) -> None:
    invocation.api("subject.add_to_roles", *_subject_and_role(invocation))


@command("subject-role-remove")
def subject_role_remove(invocation: Invocation) -> None:
    invocation.api("subject.remove_from_roles", *_subject_and_role(invocation))


def _subject_and_role(invocation: Invocation) -> tuple[str, str]:
    arguments = invocation.arguments
    uuid, name = arguments.get("role-uuid"), arguments.get("role-name")
    if not uuid and not name:
        raise CommandError("Required parameter not found: role-uuid or role-name")
    if uuid and name:
        raise CommandError("Parameters role-uuid and role-name cannot be used together")
    if uuid:
        role = invocation.ref("role", "role-uuid")
    else:
        role = next(iter(invocation.api("role.get_by_name_label", name)), NULL)
    return invocation.ref("subject"), role


@command("session-subject-identifier-list")
def logged_in_subjects(invocation: Invocation) -> None:
    found = invocation.api("session.get_all_subject_identifiers")
    invocation.printer.records([[("subject-identifier ( RO)", identifier)] for identifier in found])


@command("session-subject-identifier-logout-all")
def log_out_subjects(invocation: Invocation) -> None:
    for identifier in invocation.api("session.get_all_subject_identifiers"):
        invocation.api("session.logout_subject_identifier", identifier)


@command("caller-create")
def caller_create(invocation: Invocation) -> None:
    arguments = invocation.arguments
    if not arguments.get("user-agent") and not arguments.get("client-ip"):
        raise CommandError("Either user-agent or client-ip must be specified")
    names = ("name-label", "name-description", "user-agent", "client-ip")
    record = {name.replace("-", "_"): arguments.get(name) for name in names}
    invocation.print_uuid("Caller", invocation.api("Caller.create", record))


@command("caller-query-usage")
def caller_usage(invocation: Invocation) -> None:
    arguments, api = invocation.arguments, invocation.api
    if ("uuid" in arguments) == ("group" in arguments):
        raise CommandError("Specify exactly one of uuid= or group=")
    if "uuid" in arguments:
        caller = invocation.ref("Caller")
        tokens, calls = api("Caller.query_token_usage", caller), api("Caller.query_call_count", caller)
    else:
        group = arguments["group"]
        tokens = api("Caller.query_group_token_usage", group)
        calls = api("Caller.query_group_call_count", group)
    invocation.printer.record([("tokens", str(tokens)), ("call_count", str(calls))])


@command("caller-list-usage")
def callers_usage(invocation: Invocation) -> None:
    heads = ("uuid", "name-label", "tokens", "calls")
    rows = invocation.api("Caller.query_all_usage")
    invocation.printer.records([list(zip(heads, row, strict=False)) for row in rows])


@command("rate-limit-create")
def rate_limit_create(invocation: Invocation) -> None:
    arguments = invocation.arguments
    record = {
        "name_label": arguments.get("name-label"),
        "name_description": arguments.get("name-description"),
        "burst_size": arguments.real("burst-size"),
        "fill_rate": arguments.real("fill-rate"),
    }
    limit = invocation.api("Rate_limit.create", record)
    for uuid in arguments.items("caller-uuids"):
        caller = invocation.records.by_uuid("Caller", uuid.strip()).ref
        invocation.api("Rate_limit.add_caller", limit, caller)
    invocation.print_uuid("Rate_limit", limit)


@command("observer-create")
def observer_create(invocation: Invocation) -> None:
    arguments = invocation.arguments
    attributes = (pair.split(":") for pair in arguments.items("attributes"))
    record = {
        "name_label": arguments["name-label"],
        "name_description": arguments.get("name-description"),
        "hosts": [invocation.records.by_uuid("host", uuid).ref for uuid in arguments.items("host-uuids")],
        "attributes": {pair[0]: pair[1] for pair in attributes if len(pair) == 2},
        "endpoints": arguments.items("endpoints") or ["bugtool"],
        "components": arguments.items("components"),
        "enabled": arguments.flag("enabled"),
    }
    invocation.print_uuid("Observer", invocation.api("Observer.create", record))


@command("vtpm-create")
def vtpm_create(invocation: Invocation) -> None:
    arguments = invocation.arguments
    unique = arguments.flag("is-unique") or arguments.flag("is_unique")
    invocation.print_uuid("VTPM", invocation.api("VTPM.create", invocation.ref("VM", "vm-uuid"), unique))


@command("hostdriver-select")
def host_driver_select(invocation: Invocation) -> None:
    driver, name = invocation.find("Host_driver"), invocation.arguments["variant-name"]
    for variant in driver["variants"]:
        if invocation.records.value("Driver_variant", variant, "name") == name:
            invocation.api("Host_driver.select", driver.ref, variant)
            return
    raise CommandError(f"{name} does not identify a variant of this driver")


@command("blob-create")
def blob_create(invocation: Invocation) -> None:
    arguments = invocation.arguments
    for owner in ("VM", "pool", "SR", "host", "network"):
        parameter = f"{owner.lower()}-uuid"
        if parameter in arguments:
            blob = invocation.api(
                f"{owner}.create_new_blob",
                invocation.ref(owner, parameter),
                arguments["name"],
                arguments.get("mime-type"),
                arguments.flag("public"),
            )
            invocation.print_uuid("blob", blob)
            return
    raise CommandError("Need one of: vm-uuid, host-uuid, network-uuid, sr-uuid or pool-uuid")


@command("appliance-shutdown")
def appliance_shutdown(invocation: Invocation) -> None:
    force = invocation.arguments.flag("force")
    message = "VM_appliance.hard_shutdown" if force else "VM_appliance.clean_shutdown"
    invocation.api.task(message, invocation.ref("VM_appliance"))

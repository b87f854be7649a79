"""References as a person knows them: the uuid, and the name where there is one."""

from __future__ import annotations

from collections.abc import Callable

from kronos.commands.protocol import NULL
from kronos.commands.records import Records
from kronos.datamodel.errors import Failure

_NAMED = ("VM", "host", "SR", "VDI", "network", "pool", "task")
_NAMELESS = ("VBD", "VIF", "PIF", "PBD")


def namer(records: Records) -> Callable[[str], str]:
    """A function that turns a reference into `uuid (name)`, and leaves any other text as it is.

    An error does not say of which class its references are, so the usual ones are tried.
    """

    def named(text: str) -> str:
        if not text.startswith("OpaqueRef:") or text == NULL:
            return text
        for api_class in _NAMED + _NAMELESS:
            try:
                uuid = records.value(api_class, text, "uuid")
                if api_class in _NAMELESS:
                    return str(uuid)
                return f"{uuid} ({records.value(api_class, text, 'name_label')})"
            except Failure:
                continue
        return text

    return named

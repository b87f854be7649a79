"""Records of XenAPI as a command sees them: fetched once, one by one or a class at a time, whichever is less work."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from kronos.commands.protocol import API, NULL
from kronos.datamodel.errors import Failure

# From this many references on, one call for a whole class is less work than a call for each.
_MANY = 8
# Only roles are roles to a person; the rest of the class are the permissions within them.
_ROLES = 'field "is_internal"="false"'
# Whoever wants one field of these wants others too; and some of their fields have no getter any more.
_WHOLE = frozenset({"VM_metrics", "VM_guest_metrics", "host_metrics", "PIF_metrics", "PCI"})
# Their fields have no getters at all, not even the uuid.
_WITHOUT_GETTERS = frozenset({"message"})
# It has a name_label, but cannot be looked up by it.
_WITHOUT_LOOKUP = frozenset({"pool"})
_IDENTITY = ("uuid", "name_label")


class Row:
    """One object: its class and reference, and its record from the moment a field of it is asked for."""

    __slots__ = ("_record", "_records", "api_class", "ref")

    def __init__(
        self, records: Records, api_class: str, ref: str, record: dict[str, Any] | None = None
    ) -> None:
        self._records = records
        self._record = record
        self.api_class = api_class
        self.ref = ref

    def __getitem__(self, field: str) -> Any:
        if self._record is not None:
            return self._record.get(field)
        return self._records.value(self.api_class, self.ref, field)

    def load(self) -> None:
        """Fetch the whole record now, because most of its fields are wanted."""
        if self._record is None:
            self._record = self._records.record(self.api_class, self.ref)

    @property
    def records(self) -> Records:
        return self._records


class Records:
    """What one command has read so far. Nothing outlives the command, so nothing is ever stale for long."""

    def __init__(self, api: API) -> None:
        self.api = api
        self._classes: dict[str, dict[str, dict[str, Any]]] = {}
        self._single: dict[str, dict[str, Any]] = {}
        self._values: dict[tuple[str, str], Any] = {}

    def rows(self, api_class: str) -> list[Row]:
        """Every object of a class."""
        return [Row(self, api_class, ref, record) for ref, record in self._whole(api_class).items()]

    def row(self, api_class: str, ref: str) -> Row:
        known = self._classes.get(api_class, {}).get(ref) or self._single.get(ref)
        return Row(self, api_class, ref, known)

    def by_uuid(self, api_class: str, uuid: str) -> Row:
        """Raises UUID_INVALID."""
        return self.row(api_class, self.api(f"{api_class}.get_by_uuid", uuid))

    def by_name(self, api_class: str, name: str) -> list[Row]:
        if api_class in _WITHOUT_LOOKUP:
            return [row for row in self.rows(api_class) if row["name_label"] == name]
        return [self.row(api_class, ref) for ref in self.api(f"{api_class}.get_by_name_label", name)]

    def record(self, api_class: str, ref: str) -> dict[str, Any]:
        """Raises HANDLE_INVALID."""
        known = self._classes.get(api_class, {}).get(ref) or self._single.get(ref)
        if known is None:
            known = self._single[ref] = dict(self.api(f"{api_class}.get_record", ref))
        return known

    def value(self, api_class: str, ref: str, field: str) -> Any:
        """One field of one object. Raises HANDLE_INVALID."""
        known = self._classes.get(api_class, {}).get(ref) or self._single.get(ref)
        whole = api_class in _WITHOUT_GETTERS or (field not in _IDENTITY and api_class in _WHOLE)
        if known is None and whole:
            known = self.record(api_class, ref)
        if known is not None:
            return known.get(field)
        if (ref, field) not in self._values:
            self._values[ref, field] = self._get(api_class, ref, field)
        return self._values[ref, field]

    def _get(self, api_class: str, ref: str, field: str) -> Any:
        try:
            return self.api(f"{api_class}.get_{field}", ref)
        except Failure as failure:
            # A field that XenAPI has given up has no getter, and is still in the record.
            if failure.code != "MESSAGE_REMOVED":
                raise
            return self.record(api_class, ref).get(field)

    def value_or(self, api_class: str, ref: str, field: str, otherwise: Any) -> Any:
        """Like `value`; `otherwise` for a reference that leads nowhere."""
        if ref == NULL or not ref:
            return otherwise
        try:
            return self.value(api_class, ref, field)
        except Failure as failure:
            if failure.code != "HANDLE_INVALID":
                raise
            return otherwise

    def expect(self, api_class: str, refs: Iterable[str]) -> None:
        """Say which objects will be looked at, so that many are fetched in one call."""
        if api_class not in self._classes and len(set(refs) - {NULL}) >= _MANY:
            self._whole(api_class)

    def _whole(self, api_class: str) -> dict[str, dict[str, Any]]:
        if api_class not in self._classes:
            if api_class == "role":
                found = self.api("role.get_all_records_where", _ROLES)
            else:
                found = self.api(f"{api_class}.get_all_records")
            self._classes[api_class] = found
        return self._classes[api_class]

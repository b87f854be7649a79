"""What guests and host leave for each other in xenstore, with a store of the test's own."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from kronos.hypervisor.xen_words import Words

GUEST = "/local/domain/7"


class Store:
    """A store in memory, with the calls that Words makes."""

    def __init__(self, **values: str) -> None:
        self.values = {path.replace("__", "/"): value for path, value in values.items()}
        self.permissions: dict[str, list[str]] = {}
        self.watches: dict[str, Callable[[str], None]] = {}

    def find(self, path: str) -> str | None:
        return self.values.get(path)

    def write(self, path: str, value: str) -> None:
        self.values[path] = value

    def set_permissions(self, path: str, permissions: Iterable[str]) -> None:
        self.permissions[path] = list(permissions)

    def directory(self, path: str) -> list[str]:
        found = {key[len(path) + 1 :].partition("/")[0] for key in self.values if key.startswith(path + "/")}
        if not found:
            raise FileNotFoundError(path)
        return sorted(found)

    def below(self, path: str, names: Iterable[str]) -> dict[str, str]:
        wanted = tuple(f"{path}/{name}/" for name in names)
        return {key[len(path) + 1 :]: value for key, value in self.values.items() if key.startswith(wanted)}

    def watch(self, path: str, callback: Callable[[str], None]) -> Callable[[], None]:
        self.watches[path] = callback
        return lambda: self.watches.pop(path, None) and None

    def close(self) -> None:
        """Nothing is open."""


def test_a_guest_that_has_written_is_told_of() -> None:
    store, told = Store(), []
    words = Words(told.append, store)  # type: ignore[arg-type]
    words.follow("vm", 7)
    store.watches[f"{GUEST}/data/updated"]("")
    assert told == []
    store.write(f"{GUEST}/data/updated", "1")
    store.watches[f"{GUEST}/data/updated"]("")
    assert told == ["vm"]


def test_the_domain_of_an_earlier_run_is_no_longer_listened_to() -> None:
    store = Store()
    words = Words(lambda uuid: None, store)  # type: ignore[arg-type]
    words.follow("vm", 7)
    words.follow("vm", 8)
    assert list(store.watches) == ["/local/domain/8/data/updated"]
    words.forget("vm")
    assert store.watches == {}


def test_interfaces_are_numbered_as_their_records_are() -> None:
    store = Store()
    store.values = {
        f"{GUEST}/device/vif/0/mac": "02:00:00:00:00:AA",
        f"{GUEST}/attr/vif/0/ipv4/0": "192.0.2.1",
        f"{GUEST}/attr/vif/9/ipv4/0": "192.0.2.9",
        f"{GUEST}/data/os_name": "Linux",
        f"{GUEST}/image/secret": "not the guest's",
    }
    found = Words(lambda uuid: None, store).of_guest(7, {"02:00:00:00:00:aa": 3})  # type: ignore[arg-type]
    assert found == {
        "attr/vif/3/ipv4/0": "192.0.2.1",
        "attr/vif/9/ipv4/0": "192.0.2.9",
        "data/os_name": "Linux",
    }


def test_what_a_guest_is_given_is_for_it_alone_to_read() -> None:
    store = Store()
    Words(lambda uuid: None, store).give(7, {"vm-data/greeting": "hello"})  # type: ignore[arg-type]
    assert store.values[f"{GUEST}/vm-data/greeting"] == "hello"
    assert store.permissions[f"{GUEST}/vm-data/greeting"] == ["n0", "r7"]

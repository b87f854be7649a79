"""kronos-client against the daemon, on every transport; the examples of its page are run as they stand there."""

from __future__ import annotations

import asyncio
import contextlib
import re
import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from harness.client import Client
from harness.daemon import Daemon
from harness.guests import vm_record
from harness.host import PASSWORD
from kronos_client import AsyncCache, AsyncSession, Cache, Failure, Session

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]

README = Path(__file__).resolve().parents[2] / "client/README.md"


def trusting(daemon: Daemon) -> ssl.SSLContext:
    """Trust in this host's own certificate, whatever name it bears."""
    context = ssl.create_default_context(cafile=str(daemon.state / "xapi-ssl.pem"))
    context.check_hostname = False
    return context


@pytest.fixture(params=["https", "http", "socket"])
def xapi(request: pytest.FixtureRequest, daemon: Daemon) -> Iterator[Session]:
    host = str(daemon.socket) if request.param == "socket" else f"{request.param}://{daemon.host.address}"
    with Session(host, "root", PASSWORD, verify=trusting(daemon)) as session:
        yield session


@pytest.fixture
def vm(client: Client, daemon: Daemon) -> str:
    """A halted VM."""
    return str(client("VM.create", vm_record(daemon.state, "of kronos-client")))


def test_it_reads_records_and_runs_a_vm(xapi: Session, vm: Any) -> None:
    assert xapi.VM.get_record(vm)["power_state"] == "Halted"
    xapi.VM.start(vm, start_paused=True, force=False)
    with pytest.raises(Failure) as refused:
        xapi.VM.start(vm, start_paused=True, force=False)
    assert refused.value.code == "VM_BAD_POWER_STATE"
    assert xapi.awaited.VM.hard_shutdown(vm) is None
    assert xapi.VM.get_power_state(vm) == "Halted"
    assert xapi.VM.get_uuid(xapi.awaited.VM.clone(vm, "a copy")) != xapi.VM.get_uuid(vm)


def test_every_record_has_the_fields_that_the_types_promise(xapi: Session) -> None:
    from kronos_client import model

    for cls in ("VM", "host", "pool", "SR", "network", "role"):
        promised = getattr(model, f"{cls[0].upper()}{cls[1:]}Record").__annotations__.keys()
        for record in getattr(xapi, cls).get_all_records().values():
            assert record.keys() == promised


def test_a_stranger_certificate_is_refused(daemon: Daemon) -> None:
    with pytest.raises(httpx.ConnectError, match="certificate"):
        Session(f"https://{daemon.host.address}", "root", PASSWORD)


def test_a_cache_shows_what_others_do_and_outlives_a_restart(client: Client, daemon: Daemon) -> None:
    with Session(str(daemon.socket)) as xapi, Cache(xapi, "VM", "task") as cache:
        made: Any = client("VM.create", vm_record(daemon.state, "seen"))
        cache.wait(lambda: made in cache.VM, 10)
        client("VM.set_name_label", made, "renamed")
        cache.wait(lambda: cache.VM[made]["name_label"] == "renamed", 10)
        daemon.kill()
        daemon.start()
        with contextlib.closing(daemon.client()) as again:
            again("VM.destroy", made)
        cache.wait(lambda: made not in cache.VM, 30)


def test_asyncio_waits_for_many_at_once(daemon: Daemon, client: Client) -> None:
    vms: list[Any] = [client("VM.create", vm_record(daemon.state, f"of many {n}")) for n in range(5)]

    async def main() -> None:
        async with AsyncSession(str(daemon.socket)) as xapi, AsyncCache(xapi, "VM") as cache:
            await asyncio.gather(*(xapi.awaited.VM.start(vm, True, False) for vm in vms))
            async with asyncio.timeout(20):
                await cache.wait(lambda: all(cache.VM[vm]["power_state"] == "Paused" for vm in vms))
            await asyncio.gather(*(xapi.VM.hard_shutdown(vm) for vm in vms))
            await asyncio.gather(*(xapi.VM.destroy(vm) for vm in vms))

    asyncio.run(main())
    assert not set(vms) & set(client("VM.get_all"))


EXAMPLES = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)


@pytest.mark.parametrize("example", EXAMPLES, ids=range(1, len(EXAMPLES) + 1))
def test_an_example_of_its_page_runs(example: str, daemon: Daemon, vm: Any, client: Client) -> None:
    client("VM.set_name_label", vm, name := f"web {time.time_ns()}")
    words = {
        "xen.example.org": str(daemon.socket),
        '"web"': f'"{name}"',
        "host.pem": f"{daemon.state}/xapi-ssl.pem",
    }
    for word, here in words.items():
        example = example.replace(word, here)
    exec(compile(example, "example", "exec"), {})

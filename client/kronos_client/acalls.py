"""As calls, for asyncio: what a method answers is to be awaited. The types are in acalls.pyi."""

from __future__ import annotations

from kronos_client.calls import Classes


class AsyncClasses(Classes):
    """`xapi.VM`, `xapi.host`, …"""


class AsyncTasks(AsyncClasses):
    """As AsyncClasses, where every call answers a task."""

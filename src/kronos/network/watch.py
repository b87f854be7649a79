"""Changes of the host's network devices, as the kernel tells them."""

from __future__ import annotations

import errno
import logging
import os
import select
import threading
from collections.abc import Callable
from typing import Any

from kronos.network.base import LinkState, Watch
from kronos.network.dumps import whole
from kronos.network.netlink import IPRoute, rtnl

_log = logging.getLogger(__name__)

_AF_BRIDGE = 7  # a port's own messages: its "link deleted" means that it left the bridge, not that it is gone
_IFF_UP = 1


class NetlinkWatch(Watch):
    """A thread blocked on a netlink socket; it tells what differs from what it last knew."""

    def __init__(self, callback: Callable[[LinkState], None]) -> None:
        self._callback = callback
        self._netlink = IPRoute()
        self._wake_read, self._wake_write = os.pipe()
        self._names: dict[int, str] = {}
        self._known: dict[str, LinkState] = {}
        try:
            # Bound before the first look, so that nothing falls between the two.
            self._netlink.bind(groups=rtnl.RTMGRP_LINK)
            self._known = self._look()
            self._thread = threading.Thread(target=self._run, name="network-watch", daemon=True)
            self._thread.start()
        except BaseException:
            self._release()
            raise

    def close(self) -> None:
        if self._wake_write < 0:
            return
        os.write(self._wake_write, b"x")
        self._thread.join()
        self._release()

    def _release(self) -> None:
        self._netlink.close()
        os.close(self._wake_read)
        os.close(self._wake_write)
        self._wake_write = -1

    def _run(self) -> None:
        poll = select.poll()
        poll.register(self._netlink.fileno(), select.POLLIN)
        poll.register(self._wake_read, select.POLLIN)
        while True:
            ready = {descriptor for descriptor, _ in poll.poll()}
            if self._wake_read in ready:
                return
            try:
                for message in self._netlink.get():
                    self._follow(message)
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    _log.exception("the watch of network devices ends")
                    return
                self._catch_up()

    def _follow(self, message: Any) -> None:
        if message["event"] not in ("RTM_NEWLINK", "RTM_DELLINK") or message["family"] == _AF_BRIDGE:
            return
        name = message.get_attr("IFLA_IFNAME")
        before = self._names.get(message["index"])
        if before is not None and before != name:
            self._tell(LinkState(before, present=False))
        if message["event"] == "RTM_DELLINK":
            self._names.pop(message["index"], None)
            self._tell(LinkState(name, present=False))
        else:
            self._names[message["index"]] = name
            self._tell(self._state(message))

    def _catch_up(self) -> None:
        """The kernel dropped messages: look at everything, and tell what changed meanwhile."""
        now = self._look()
        for gone in self._known.keys() - now.keys():
            self._tell(LinkState(gone, present=False))
        for state in now.values():
            self._tell(state)

    def _look(self) -> dict[str, LinkState]:
        with IPRoute() as netlink:
            messages = whole(netlink.get_links)
        self._names = {message["index"]: message.get_attr("IFLA_IFNAME") for message in messages}
        states = [self._state(message) for message in messages]
        return {state.device: state for state in states}

    def _state(self, message: Any) -> LinkState:
        return LinkState(
            device=message.get_attr("IFLA_IFNAME"),
            up=bool(message["flags"] & _IFF_UP),
            carrier=bool(message.get_attr("IFLA_CARRIER")),
            master=self._names.get(message.get_attr("IFLA_MASTER"), ""),
        )

    def _tell(self, state: LinkState) -> None:
        if self._known.get(state.device, LinkState(state.device, present=False)) == state:
            return
        if state.present:
            self._known[state.device] = state
        else:
            del self._known[state.device]
        try:
            self._callback(state)
        except Exception:  # noqa: BLE001  # a caller's mistake must not end the watch
            _log.exception("the callback for network device %s failed", state.device)

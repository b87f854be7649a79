"""XenAPI for Python, typed: for Kronos, XCP-ng and XenServer hosts, with and without asyncio.

from kronos_client import Session

with Session("xen.example.org", "root", "secret", verify="host.pem") as xapi:
    for ref, vm in xapi.VM.get_all_records().items():
        print(vm["name_label"], vm["power_state"])
"""

from kronos_client.asession import AsyncSession
from kronos_client.cache import AsyncCache, Cache
from kronos_client.errors import Failure, Malformed, NoAnswer
from kronos_client.records import Change
from kronos_client.session import Session

__version__ = "0.1.0"

__all__ = [
    "AsyncCache",
    "AsyncSession",
    "Cache",
    "Change",
    "Failure",
    "Malformed",
    "NoAnswer",
    "Session",
]

"""session: logging in and out."""

from __future__ import annotations

import asyncio

from kronos.datamodel.errors import Failure
from kronos.datamodel.types import NULL
from kronos.db.records import Session
from kronos.dispatch.call import Call
from kronos.dispatch.registry import message
from kronos.dispatch.sessions import FAILED_LOGIN_DELAY


@message("session.login_with_password")
async def login_with_password(call: Call, uname: str, pwd: str, version: str, originator: str) -> str:
    """Log in. On the local socket, which only root can open, any name and password will do.

    A wrong password is answered after five seconds. Raises SESSION_AUTHENTICATION_FAILED [user, text].
    """
    if call.origin.local:
        user = uname or "root"
    else:
        await _authenticate(call, uname, pwd)
        user = uname
    session = call.pipeline.sessions.begin(
        user=user, host=call.machine.host_ref, origin=call.origin, originator=originator
    )
    return session.ref


@message("session.slave_local_login_with_password")
async def slave_local_login_with_password(call: Call, uname: str, pwd: str) -> str:
    """Log in on this host alone, for the calls that work while its pool is out of reach.

    Raises SESSION_AUTHENTICATION_FAILED [user, text].
    """
    if not call.origin.local:
        await _authenticate(call, uname, pwd)
    return call.pipeline.sessions.begin_local(uname, call.machine.host_ref).ref


async def _authenticate(call: Call, untrusted_user: str, untrusted_password: str) -> None:
    authenticate = call.machine.authenticate
    if authenticate is None:
        raise Failure("SESSION_AUTHENTICATION_FAILED", untrusted_user, "Logins are off on this host")
    try:
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(call.pipeline.logins, authenticate, untrusted_user, untrusted_password)
    except Failure:
        await asyncio.sleep(FAILED_LOGIN_DELAY)
        raise


@message("session.logout", inline=True)
def logout(call: Call) -> None:
    """End the caller's session; calls that wait on it are told SESSION_INVALID."""
    call.pipeline.sessions.end(call.user)


@message("session.local_logout", inline=True)
def local_logout(call: Call) -> None:
    """End a session of slave_local_login_with_password."""
    call.pipeline.sessions.end(call.user)


@message("session.get_all_subject_identifiers", inline=True)
def get_all_subject_identifiers(call: Call) -> tuple[str, ...]:
    """The external users who are logged in."""
    return tuple(dict.fromkeys(row.auth_user_sid for row in call.db.all(Session) if row.subject != NULL))


@message("session.logout_subject_identifier", inline=True)
def logout_subject_identifier(call: Call, subject_identifier: str) -> None:
    """End every session of an external user, but not the caller's own."""
    for row in call.db.all(Session):
        if (
            row.auth_user_sid == subject_identifier
            and not row.is_local_superuser
            and row.ref != call.user.ref
        ):
            call.pipeline.sessions.end(row)

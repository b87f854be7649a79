"""session: logging in and out."""

from __future__ import annotations

from functools import partial

from kronos.api.pool import client_certificates
from kronos.auth import pam
from kronos.datamodel.errors import Failure
from kronos.db.records import Session, Subject
from kronos.dispatch import roles
from kronos.dispatch.call import Call
from kronos.dispatch.gate import Guesser
from kronos.dispatch.registry import message

LONGEST = 256
ROOT = "root"
"""The one user who is never the directory's: who repairs it has to get in."""


@message("session.login_with_password")
async def login_with_password(call: Call, uname: str, pwd: str, version: str, originator: str) -> str:
    """Log in. On the local socket, which only root can open, any name and password will do.

    Nor does a client need them that came with a certificate of the pool's choice: it gets the role client-cert.
    With external authentication on, everybody but root is the directory's, and may do what the pool's subjects say.
    A refusal comes five seconds after the check began, whatever the reason. Raises SESSION_AUTHENTICATION_FAILED
    [user, text], SESSION_AUTHORIZATION_FAILED [user, text], RBAC_PERMISSION_DENIED.
    """
    begin = partial(
        call.pipeline.sessions.begin,
        host=call.machine.host_ref,
        origin=call.origin,
        originator=originator,
    )
    if call.origin.local:
        return begin(user=uname or ROOT).ref
    if client_certificates.lets_in(call.db, call.origin):
        permissions = roles.permissions_of(client_certificates.ROLE)
        return begin(user=uname, superuser=False, permissions=permissions, certificate=True).ref
    if uname == ROOT or not call.pipeline.admission.enabled:
        await _authenticate(call, uname, pwd, originator)
        return begin(user=uname).ref
    guesser = _guesser(call, uname, originator)
    work = partial(call.pipeline.admission.admit, uname, pwd)
    try:
        admitted = await call.pipeline.gate.check(guesser, work, external=True)
    except Failure as failure:
        call.pipeline.audit.login(uname, originator, call.origin.address, failure)
        raise
    session = begin(
        user=admitted.person.name,
        superuser=False,
        permissions=admitted.permissions,
        subjects=admitted.subjects,
        sid=admitted.person.identifier,
    )
    # What the directory said is some time old by now: whoever ends sessions meanwhile did not see this one yet.
    if not call.pipeline.admission.enabled or not all(call.db.find(Subject, s) for s in admitted.subjects):
        call.pipeline.sessions.end(session)
        raise Failure("SESSION_AUTHORIZATION_FAILED", uname, "The pool's subjects changed meanwhile")
    return session.ref


@message("session.slave_local_login_with_password")
async def slave_local_login_with_password(call: Call, uname: str, pwd: str) -> str:
    """Log in on this host alone, for the calls that work while its pool is out of reach. Never asks the directory.

    Raises SESSION_AUTHENTICATION_FAILED [user, text].
    """
    if not call.origin.local:
        await _authenticate(call, uname, pwd, "")
    return call.pipeline.sessions.begin_local(uname, call.machine.host_ref).ref


def _guesser(call: Call, untrusted_user: str, originator: str) -> Guesser:
    # Kept for as long as its failures are counted, so that it is not to be as long as a client likes.
    said = (untrusted_user, originator, call.origin.user_agent, call.origin.address)
    return Guesser(*(each[:LONGEST] for each in said))


async def _authenticate(call: Call, untrusted_user: str, untrusted_password: str, originator: str) -> None:
    """Check a local user. With external authentication on that is root alone."""
    authenticate = call.machine.authenticate
    try:
        if authenticate is None:
            raise Failure("SESSION_AUTHENTICATION_FAILED", untrusted_user, "Logins are off on this host")
        if untrusted_user != ROOT and call.pipeline.admission.enabled:
            raise Failure("SESSION_AUTHENTICATION_FAILED", untrusted_user, "Authentication failure")
        work = partial(authenticate, untrusted_user, untrusted_password)
        await call.pipeline.gate.check(_guesser(call, untrusted_user, originator), work, external=False)
    except Failure as failure:
        call.pipeline.audit.login(untrusted_user, originator, call.origin.address, failure)
        raise


@message("session.logout", inline=True)
def logout(call: Call) -> None:
    """End the caller's session; calls that wait on it are told SESSION_INVALID."""
    call.pipeline.sessions.end(call.user)


@message("session.local_logout", inline=True)
def local_logout(call: Call) -> None:
    """End a session of slave_local_login_with_password."""
    call.pipeline.sessions.end(call.user)


@message("session.change_password")
def change_password(call: Call, old_pwd: str, new_pwd: str) -> None:
    """Give root another password. Root is believed without the old one.

    Raises USER_IS_NOT_LOCAL_SUPERUSER [text], CHANGE_PASSWORD_REJECTED [text].
    """
    if not call.user.is_local_superuser:
        raise Failure("USER_IS_NOT_LOCAL_SUPERUSER", f"{call.user.auth_user_name} is the directory's")
    pam.set_password(call.machine.outside, ROOT, new_pwd)


@message("session.get_all_subject_identifiers", inline=True)
def get_all_subject_identifiers(call: Call) -> tuple[str, ...]:
    """The external users who are logged in, and the subjects that let them in."""
    rows = call.pipeline.sessions.external()
    users = [row.auth_user_sid for row in rows]
    subjects = [subject.subject_identifier for row in rows if (subject := call.db.find(Subject, row.subject))]
    return tuple(dict.fromkeys(users + subjects))


@message("session.logout_subject_identifier", inline=True)
def logout_subject_identifier(call: Call, subject_identifier: str) -> None:
    """End every session of an external user, or of a subject, but not the caller's own."""
    call.pipeline.admission.known.forget(subject_identifier)

    def concerned(row: Session) -> bool:
        subjects = (call.db.find(Subject, ref) for ref in call.pipeline.sessions.subjects_of(row))
        return row.auth_user_sid == subject_identifier or any(
            subject is not None and subject.subject_identifier == subject_identifier for subject in subjects
        )

    sessions = call.pipeline.sessions
    sessions.end_all(row for row in sessions.external() if concerned(row) and row.ref != call.user.ref)

"""Visitors: the directory's users are looked at again while they are here, and who tried to come in is reported.

Nothing runs while there are none of either.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import Final
from xml.sax.saxutils import escape

from kronos.api.message import tell
from kronos.auth.base import DirectoryFailed
from kronos.datamodel.errors import Failure
from kronos.datamodel.types import at
from kronos.db.records import Host, Session
from kronos.dispatch.admission import Lost
from kronos.dispatch.gate import Guesser, Tally
from kronos.dispatch.pipeline import Pipeline

log = logging.getLogger(__name__)

LOOKS: Final = 60.0
"""Seconds between two looks for sessions that are due; fewer where sessions are due sooner."""
RENEWAL: Final = 3600.0
"""Seconds between two readings of what the directory says of the subjects."""
REPORTS: Final = 3600.0
"""Seconds between two messages about failed logins."""
PATIENCE: Final = 24 * 3600.0
"""Seconds for which a directory may be out of reach before those who are logged in have to leave."""
_SHOWN: Final = 3
_NAME, _PRIORITY = "FAILED_LOGIN_ATTEMPTS", 3


class Visitors:
    """A thread that sleeps for ever unless somebody of the directory's is logged in, or failed to."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline = pipeline
        self._something = threading.Event()
        self._closing = threading.Event()
        self._reported = time.monotonic()
        self._renewed = time.monotonic()
        self._answered = time.monotonic()

    def start(self) -> None:
        self.pipeline.sessions.on_begin.append(self._begun)
        self.pipeline.gate.on_failure = self._something.set
        threading.Thread(target=self._keep, name="visitors", daemon=True).start()
        if self.pipeline.admission.enabled:
            threading.Thread(target=self.assert_usable, name="directory", daemon=True).start()

    def close(self) -> None:
        self._closing.set()
        self._something.set()

    def _begun(self, row: Session) -> None:
        if not row.is_local_superuser:
            self._answered = time.monotonic()
            self._something.set()

    def _keep(self) -> None:
        while True:
            self._something.wait()
            if self._closing.wait(min(LOOKS, self.pipeline.sessions.revalidation / 2)):
                return
            try:
                self.look()
            except Exception:  # the next look is to come all the same
                log.exception("the directory's users were not looked at")
            if not self.pipeline.sessions.external() and not self.pipeline.gate.tally.total:
                self._something.clear()
                # Of what came just before that was cleared:
                if self.pipeline.sessions.external() or self.pipeline.gate.tally.total:
                    self._something.set()

    def look(self) -> None:
        """Do what is due by now."""
        moment = time.monotonic()
        for row in self.pipeline.sessions.due():
            if not self.revalidate(row):
                break
        if self.pipeline.admission.enabled and moment - self._renewed > RENEWAL:
            self._renewed = moment
            self.renew()
        if self.pipeline.gate.tally.total and moment - self._reported > REPORTS:
            self._reported = moment
            self.report()

    def revalidate(self, row: Session) -> bool:
        """End a session whose user may no longer be here; False where the directory cannot be asked.

        While the directory does not answer, those who are here stay, for a day: it is not to be a switch that throws
        everybody out. New logins need it.
        """
        sessions, admission = self.pipeline.sessions, self.pipeline.admission
        try:
            subjects = admission.check(row.auth_user_sid, sessions.subjects_of(row))
        except Lost as lost:
            log.warning("a session of %s ends: %s", row.auth_user_name, lost)
            admission.known.forget(row.auth_user_sid)
            sessions.end(row)
        except DirectoryFailed as failed:
            if time.monotonic() - self._answered > PATIENCE:
                log.error("sessions end, for the directory has not answered for a day: %s", failed)
                sessions.end(row)
            else:
                log.warning("the directory cannot say whether %s may stay: %s", row.auth_user_name, failed)
            return False
        except Failure as failure:  # external authentication was turned off meanwhile
            log.info("a session of %s ends: %s", row.auth_user_name, failure)
            sessions.end(row)
        else:
            self._answered = time.monotonic()
            sessions.validated(row, subjects)
        return True

    def assert_usable(self) -> None:
        """Leave a message where the directory cannot be used when the daemon starts: only root comes in then."""
        host = self.pipeline.db.get(Host, self.pipeline.machine.host_ref)
        try:
            self.pipeline.admission.directory().probe()
        except (DirectoryFailed, Failure) as failed:
            log.error("the directory cannot be used: %s", failed)
            kind, service = host.external_auth_type, host.external_auth_service_name
            text = f"External authentication type={kind}, service={service}, error={failed}"
            tell(self.pipeline.db, "EXTAUTH_INIT_IN_HOST_FAILED", 2, "Host", host.uuid, text)

    def renew(self) -> None:
        """Write down what the directory says of the subjects now: names change."""
        try:
            self.pipeline.admission.renew_subjects()
        except (DirectoryFailed, Failure) as failed:
            log.warning("what is known of the subjects was not renewed: %s", failed)

    def report(self) -> None:
        """Leave a message about failed logins since the last one."""
        tally = self.pipeline.gate.report()
        host = self.pipeline.db.get(Host, self.pipeline.machine.host_ref)
        if tally.total:
            tell(self.pipeline.db, _NAME, _PRIORITY, "Host", host.uuid, body(tally))


def body(tally: Tally) -> str:
    """The message's text: how many there were, and of the three worst who and when last."""
    worst = tally.known.most_common(_SHOWN)
    known = "".join(_known(guesser, number, tally.last[guesser]) for guesser, number in worst)
    return f"<body>\n<total>{tally.total}</total>{known}\n</body>"


def _known(guesser: Guesser, number: int, last: float) -> str:
    said = (
        ("username", guesser.user),
        ("originator", guesser.originator),
        ("useragent", guesser.user_agent),
        ("ip", guesser.address),
    )
    lines = [f"<{name}>{escape(value[:256])}</{name}>" for name, value in said if value]
    lines += [f"<number>{number}</number>", f"<date>{at(last)}</date>"]
    return "\n<known>\n" + "\n".join(lines) + "\n</known>"

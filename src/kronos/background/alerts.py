"""Alerts: every new message is given to the host's hook and mailed, where the pool's other_config asks for it."""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Mapping, Set
from pathlib import Path

from kronos.api.message import ABOUT
from kronos.db.database import Database
from kronos.db.record import Record
from kronos.db.records import Host, Message, Pool, Secret
from kronos.dispatch.appointments import Appointments
from kronos.rules import alerts
from kronos.rules.alerts import Alert, Mail
from kronos.system import mail
from kronos.system.commands import CommandFailed, run

log = logging.getLogger(__name__)

HANDS = 2
RETRIES = (60.0, 300.0, 1800.0)
"""Seconds before each further try of a mail that no server took."""
MOST_WAITING = 1000
"""Mails and hooks that wait; beyond it new messages are only kept, as a server that hangs is not to fill the memory."""
PATIENCE = 60.0
"""Seconds that the hook may take for a message."""

_LOGIN = {"ssmtp-authpass": "ssmtp-authpass_secret"}


class Alerts:
    """Notices new messages. `script` is an executable, or empty for none; it gets a message as an XML document."""

    def __init__(self, db: Database, script: str) -> None:
        self.db = db
        self.script = script
        self._appointments = Appointments("alert", HANDS)
        self._guard = threading.Lock()
        self._waiting = 0
        db.derive(self._noticed)

    def _noticed(self, _: Database, changes: Mapping[Record, Set[str]]) -> None:
        for row, fields in changes.items():
            if not fields and type(row) is Message:
                self._appoint(0.0, self._told, row.ref)

    def _appoint(self, delay: float, function: object, *arguments: object) -> None:
        with self._guard:
            if self._waiting >= MOST_WAITING:
                log.warning("Too many alerts wait: one is left out")
                return
            self._waiting += 1
        self._appointments.make(delay, self._kept, function, arguments)

    def _kept(self, function: object, arguments: tuple[object, ...]) -> None:
        with self._guard:
            self._waiting -= 1
        assert callable(function)
        function(*arguments)

    def _told(self, ref: str) -> None:
        with (
            self.db.lock
        ):  # the transaction that made it is over then: the message is there, or was taken back
            row = self.db.find(Message, ref)
        if row is None:
            return
        pool = next(iter(self.db.all(Pool)), None)
        config = pool.other_config if pool is not None else {}
        alert = self._alert(row, pool)
        if alerts.is_mailed(row.priority, config):
            self._send(alerts.mail(alert, config, socket.getfqdn(), self._brand()), config, 0)
        if self.script:
            self._run(alerts.document(alert))

    def _brand(self) -> str:
        host = next(iter(self.db.all(Host)), None)
        return host.software_version.get("product_brand", "XenAPI") if host is not None else "XenAPI"

    def _alert(self, row: Message, pool: Pool | None) -> Alert:
        kind = ABOUT.get(row.cls)
        ref = self.db.tables[kind.kind.name].by_uuid(row.obj_uuid) if kind is not None else None
        about = self.db.rows.get(ref) if ref is not None else None
        return Alert(
            ref=row.ref,
            name=row.name,
            priority=row.priority,
            cls=row.cls,
            obj_uuid=row.obj_uuid,
            obj_name=str(getattr(about, "name_label", "")),
            timestamp=row.timestamp,
            uuid=row.uuid,
            body=row.body,
            pool_name=(pool.name_label if pool is not None else "") or socket.gethostname(),
        )

    def _send(self, letter: Mail, config: Mapping[str, str], tries: int) -> None:
        hub = alerts.hub(self._with_password(config))
        try:
            written = mail.written(letter.sender, letter.recipients, letter.subject, letter.text)
            mail.send(
                written,
                hub.host,
                hub.port,
                user=hub.user,
                password=hub.password,
                tls=hub.tls,
                starttls=hub.starttls,
            )
        except mail.MailFailed as error:
            if tries == len(RETRIES):
                log.warning("An alert was not mailed: %s", error)
                return
            log.info("An alert is mailed later: %s", error)
            self._appoint(RETRIES[tries], self._send, letter, config, tries + 1)

    def _with_password(self, config: Mapping[str, str]) -> Mapping[str, str]:
        """The pool's settings with the password that a secret holds, so that not everybody who reads them has it."""
        for key, named in _LOGIN.items():
            ref = self.db.tables["secret"].by_uuid(config.get(named, ""))
            secret = self.db.find(Secret, ref) if ref is not None else None
            if secret is not None:
                return {**config, key: secret.value}
        return config

    def _run(self, document: str) -> None:
        if not (Path(self.script).is_file() and os.access(self.script, os.X_OK)):
            log.warning("The message script %s is no executable file", self.script)
            return
        try:
            run([self.script, document], timeout=PATIENCE)
        except CommandFailed as error:
            log.warning("The message script failed (%s): %s", error.status, error.stderr[:500])

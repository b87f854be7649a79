"""Alerts: which messages are mailed, where to, and what the mail and the hook's document say.

What is to be done with them stands in the pool's other_config, under the keys that administrators know:
mail-destination, mail-sender, mail-min-priority, and ssmtp-… for the server.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from kronos.datamodel.types import escape

LEAST_PRIORITY = 3
"""Messages of this number and below are mailed where mail-min-priority does not say: 1 is critical, 5 a remark."""
MOST_BODY = 64 << 10
"""Characters of a message's body that a mail or the hook gets: the system takes 128 KiB for one argument."""


@dataclass(frozen=True, slots=True)
class Alert:
    """What a message says, with the names of what it is about."""

    ref: str
    name: str
    priority: int
    cls: str
    obj_uuid: str
    obj_name: str
    timestamp: str
    uuid: str
    body: str
    pool_name: str


@dataclass(frozen=True, slots=True)
class Hub:
    """A mail server. `tls` from the first byte on, or `starttls` after the greeting."""

    host: str
    port: int
    user: str
    password: str
    tls: bool
    starttls: bool


@dataclass(frozen=True, slots=True)
class Mail:
    sender: str
    recipients: tuple[str, ...]
    subject: str
    text: str


def is_mailed(priority: int, config: Mapping[str, str]) -> bool:
    """Whether somebody wants a mail of a message of this priority."""
    least = config.get("mail-min-priority", "")
    limit = int(least) if least.isascii() and least.isdigit() else LEAST_PRIORITY
    return bool(recipients(config)) and priority <= limit


def recipients(config: Mapping[str, str]) -> tuple[str, ...]:
    """The addresses of mail-destination; commas, semicolons or spaces between them."""
    return tuple(each for each in re.split(r"[,;\s]+", config.get("mail-destination", "")) if each)


def hub(config: Mapping[str, str]) -> Hub:
    """The server that ssmtp-… names, this host's own where none is. A port that is no number is not taken."""
    tls = _is_set(config, "usetls")
    host, _, port = config.get("ssmtp-mailhub", "").strip().rpartition(":")
    if not host or not port.isdigit() or (":" in host and not host.endswith("]")):
        host, port = config.get("ssmtp-mailhub", "").strip(), ""
    starttls = _is_set(config, "usestarttls")
    return Hub(
        host=host.strip("[]") or "localhost",
        port=int(port) if port and 0 < int(port) < 65536 else 465 if tls and not starttls else 25,
        user=config.get("ssmtp-authuser", ""),
        password=config.get("ssmtp-authpass", ""),
        tls=tls and not starttls,
        starttls=starttls,
    )


def _is_set(config: Mapping[str, str], key: str) -> bool:
    return config.get(f"ssmtp-{key}", "").lower() in ("yes", "true", "1")


def mail(alert: Alert, config: Mapping[str, str], hostname: str, brand: str) -> Mail:
    """The mail that tells of a message."""
    sender = _one_line(config.get("mail-sender", "")) or f"noreply@{hostname}"
    about = alert.obj_name or alert.obj_uuid
    subject = f'[{alert.pool_name}] {brand}: {alert.name} ({alert.cls} "{about}")'
    lines = (
        ("Name", alert.name),
        ("Priority", str(alert.priority)),
        ("Class", alert.cls),
        ("Object name", alert.obj_name),
        ("Object UUID", alert.obj_uuid),
        ("Timestamp", alert.timestamp),
        ("Message UUID", alert.uuid),
        ("Pool name", alert.pool_name),
    )
    text = "".join(f"{label + ':':<14}{value}\n" for label, value in lines) + f"\n{alert.body[:MOST_BODY]}\n"
    return Mail(sender, recipients(config), _one_line(subject), text)


def document(alert: Alert) -> str:
    """A message as the XML document that the hook gets."""
    fields = (
        ("ref", alert.ref),
        ("name", alert.name),
        ("priority", str(alert.priority)),
        ("cls", alert.cls),
        ("obj_uuid", alert.obj_uuid),
        ("timestamp", alert.timestamp),
        ("uuid", alert.uuid),
        ("body", alert.body[: MOST_BODY // 4]),
    )
    return "<message>" + "".join(f"<{tag}>{escape(text)}</{tag}>" for tag, text in fields) + "</message>"


def _one_line(text: str) -> str:
    """A header's text: names are clients' own, and a line break in one would begin another header."""
    return "".join(each if each.isprintable() else " " for each in text).strip()[:200]

"""Mail: one message to a server, over SMTP."""

from __future__ import annotations

import ssl
from email.message import EmailMessage
from email.utils import formatdate, make_msgid

TIMEOUT = 30.0
"""Seconds that each step of the server's may take."""


class MailFailed(Exception):
    """A server that could not be reached, or did not take the mail; the text has no password in it."""


def written(sender: str, recipients: tuple[str, ...], subject: str, text: str) -> EmailMessage:
    """A mail in plain text. Raises MailFailed for an address that is none."""
    try:
        message = EmailMessage()
        message["From"] = sender
        message["To"] = ", ".join(recipients)
        message["Subject"] = subject
        message["Date"] = formatdate(localtime=True)
        message["Message-ID"] = make_msgid(domain=sender.rpartition("@")[2] or None)
        message["Auto-Submitted"] = "auto-generated"
        message.set_content(text, charset="utf-8")
    except (ValueError, IndexError) as error:
        raise MailFailed(f"the mail cannot be written: {error}") from error
    return message


def send(
    message: EmailMessage,
    host: str,
    port: int,
    *,
    user: str = "",
    password: str = "",
    tls: bool = False,
    starttls: bool = False,
) -> None:
    """Hand a mail over. Certificates of servers are checked. Raises MailFailed."""
    import smtplib  # a megabyte of a daemon that may never mail anything

    try:
        context = ssl.create_default_context() if tls or starttls else None
        made = smtplib.SMTP_SSL(host, port, timeout=TIMEOUT, context=context) if tls else smtplib.SMTP(
            host, port, timeout=TIMEOUT
        )  # fmt: skip
        with made as server:
            if starttls:
                server.starttls(context=context)
            if user:
                server.login(user, password)
            refused = server.send_message(message)
    except smtplib.SMTPAuthenticationError as error:
        raise MailFailed(f"{host}:{port} refused the login of {user} ({error.smtp_code})") from error
    except (OSError, smtplib.SMTPException, UnicodeError) as error:
        raise MailFailed(f"{host}:{port}: {error}") from error
    if refused:
        raise MailFailed(f"{host}:{port} refused {', '.join(refused)}")

"""pool: whether its hosts ask each other for a certificate that they know."""

from __future__ import annotations

import socket
import ssl

from kronos.api.host.certificates import FILES, POOL
from kronos.api.pool.certificates import trust
from kronos.datamodel.errors import Failure
from kronos.db.records import Host, Pool
from kronos.dispatch.call import Call
from kronos.dispatch.registry import message

MOST = 1 << 20
"""Bytes of an answer that are given back."""
PATIENCE = 10.0
"""Seconds that a host gets to answer."""


@message("pool.enable_tls_verification")
def enable_tls_verification(call: Call) -> None:
    """Have hosts verify each other. Each is called so once before: one that could not be reached would be lost.

    Raises TLS_CONNECTION_FAILED [address, port].
    """
    hosts = call.db.all(Host)
    for host in hosts:
        _ping(call, host.address or "127.0.0.1", call.machine.https_port)
    with call.db.transaction():
        for host in hosts:
            host.tls_verification_enabled = True
        call.db.all(Pool)[0].tls_verification_enabled = True


def _ping(call: Call, address: str, port: int) -> None:
    """Shake hands with a host of the pool as another host will: by the name `pool`, with its own certificate."""
    try:
        context = ssl.create_default_context(cafile=call.machine.state / FILES[POOL])
        context.check_hostname = False
        with (
            socket.create_connection((address, port), PATIENCE) as plain,
            context.wrap_socket(plain, server_hostname="pool"),
        ):
            pass
    except (OSError, UnicodeError) as error:  # ssl.SSLError is one; a name too long for IDNA
        raise Failure("TLS_CONNECTION_FAILED", address, str(port)) from error


@message("pool.send_test_post")
def send_test_post(call: Call, host: str, port: int, body: str) -> str:
    """POST a text to somebody's HTTPS server, whose certificate an authority that this pool believes must have signed;
    what it answers.

    Raises INVALID_VALUE, SSL_VERIFY_ERROR [reason], TLS_CONNECTION_FAILED [address, port].
    """
    if not 0 < port < 65536:
        raise Failure("INVALID_VALUE", "port", str(port))
    return posted(trust(call.machine).client_context(), host, port, body)


@message("host.emergency_disable_tls_verification")
def emergency_disable_tls_verification(call: Call) -> None:
    """Have this host verify nobody, while the pool still does."""
    call.host.tls_verification_enabled = False


@message("host.emergency_reenable_tls_verification")
def emergency_reenable_tls_verification(call: Call) -> None:
    """Have it verify again. Raises TLS_VERIFICATION_NOT_ENABLED_IN_POOL."""
    if not call.db.all(Pool)[0].tls_verification_enabled:
        raise Failure("TLS_VERIFICATION_NOT_ENABLED_IN_POOL")
    call.host.tls_verification_enabled = True


def posted(context: ssl.SSLContext, host: str, port: int, body: str) -> str:
    """The answer to a POST. Raises SSL_VERIFY_ERROR [reason], TLS_CONNECTION_FAILED [address, port]."""
    import http.client  # for this alone

    connection = http.client.HTTPSConnection(host, port, timeout=PATIENCE, context=context)
    try:
        connection.request("POST", "/", body.encode(), {"Content-Type": "text/plain"})
        return connection.getresponse().read(MOST).decode(errors="replace")
    except ssl.SSLCertVerificationError as error:
        raise Failure("SSL_VERIFY_ERROR", error.verify_message) from error
    except (OSError, http.client.HTTPException, UnicodeError) as error:
        raise Failure("TLS_CONNECTION_FAILED", host[:255], str(port)) from error
    finally:
        connection.close()

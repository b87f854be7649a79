"""The command from start to end: connect, send the words, obey the server, leave with its exit status."""

from __future__ import annotations

import posix  # `os` is a millisecond more
import sys

from kronos.xe import options, wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Literal, NoReturn, TextIO

_SOCKET = b"/var/lib/xcp/xapi"
# A server that restarts may take a command just before it stops: this host's next one takes it again.
_TRIES = 10
_PAUSE = 0.2
_USAGE = """\
Usage: xe <command> [options] [name=value ...]

    -s <server>              host to talk to (this one when not given)
    -p <port>                port on that host
    -u <username>            user to log in as
    -pw <password>           their password
    -pwf <file>              file with the user and the password, a line each
    --nossl                  talk to the host without TLS
    --minimal                values alone, separated by commas
    --debug                  show what is sent and received
    --debug-on-fail          the same, only if the command fails

The commands:  xe help --all
"""


def main(argv: Sequence[str]) -> NoReturn:
    """Run the command and end the process; nothing is left to tidy, so the interpreter's own farewell is skipped."""
    status = 1
    if None in (sys.stdin, sys.stdout, sys.stderr):
        _fill_streams()
    try:
        status = run(argv[1:])
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read our output has had enough.
        pass
    except OSError as error:
        # What failed in the middle of the output fails here again, and has been told.
        status = status or _complain(f"Error: {error.strerror or error}")
    except KeyboardInterrupt:
        status = 130
    try:
        sys.stderr.flush()
    except OSError:
        pass
    posix._exit(status)


def _fill_streams() -> None:
    """Put something in the place of each stream that the caller closed, or a connection would get its number.

    What is written to a closed standard output stays an error, as there is nobody who gets it.
    """
    if sys.stdin is None:
        sys.stdin = _nowhere(posix.O_RDONLY, "r")
    if sys.stdout is None:
        sys.stdout = _nowhere(posix.O_RDONLY, "w")
    if sys.stderr is None:
        sys.stderr = _nowhere(posix.O_WRONLY, "w")


def _nowhere(flags: int, mode: Literal["r", "w"]) -> TextIO:
    return open(posix.open("/dev/null", flags), mode, encoding="utf-8")  # noqa: PTH123, SIM115  # as in options


def run(arguments: Sequence[str]) -> int:
    """The exit status of a command line."""
    if "-version" in arguments:
        print("ThinCLI protocol: 0.2")
        return 0
    try:
        found = options.read(arguments, posix.environ)
        return _perform(found)
    except options.Usage as usage:
        if usage.args:
            return _complain(str(usage))
        sys.stderr.write(_USAGE)
        return 0
    except wire.NotAServer as error:
        return _complain(f"{error}\nTry specifying a server name and port.")
    except (wire.Gone, ConnectionResetError):
        return _complain("Lost connection to the server.")
    except wire.Refused as error:
        return _complain(str(error))
    except BrokenPipeError:
        raise
    except OSError as error:
        return _complain(f"Error: {error.strerror or error}")


def _complain(text: str) -> int:
    sys.stderr.write(f"{text}\n")
    return 1


def _perform(found: options.Options) -> int:
    trace = wire.Trace(found.debug, found.debug_on_fail)
    endpoint = _endpoint(found)
    request = _request(found, endpoint)
    tries = _TRIES if endpoint.trusted else 1
    while True:
        tries -= 1
        dialogue = wire.Obedience(endpoint.connect(), endpoint, found.words, trace)
        try:
            dialogue.greet(request)
            break
        except wire.Unanswered:
            if not tries:
                raise
            import time

            time.sleep(_PAUSE)
    status = dialogue.run()
    trace.finish(status)
    return status


def _endpoint(found: options.Options) -> wire.Endpoint:
    """The server's Unix socket on this host, else its TCP port."""
    if found.local:
        path = posix.environ.get(b"XAPI_SOCKET", _SOCKET)
        local = wire.UnixEndpoint(path)
        if local.usable():
            return local
    from kronos.xe import remote

    return remote.TcpEndpoint(found.server, found.port, found.tls)


def _request(found: options.Options, endpoint: wire.Endpoint) -> bytes:
    """The words and the login, a line each; with NUL between them where a word holds a line break."""
    username, password = _login(found, endpoint)
    words = [*found.words, f"username={username}", f"password={password}"]
    separator = "\0" if any("\n" in word for word in words) else "\n"
    body = separator.join(words).encode("utf-8", "surrogateescape")
    head = b"POST /cli HTTP/1.0\r\nUser-agent: xe-cli/Unix/0.2\r\noriginator: cli\r\n"
    parent = found.known.get("traceparent", "").encode() or posix.environ.get(b"TRACEPARENT", b"")
    if parent and not parent.translate(None, b"0123456789abcdef-"):
        head += b"traceparent: " + parent + b"\r\n"
    return head + b"content-length: %d\r\n\r\n" % len(body) + body


def _login(found: options.Options, endpoint: wire.Endpoint) -> tuple[str, str]:
    """Who to be: on the Unix socket the server knows us already, elsewhere it wants a password."""
    username = found.known.get("username", "root")
    password = found.known.get("password")
    path = found.known.get("passwordfile")
    if path is not None:
        return options.login_file(path)
    if password is None and not endpoint.trusted and sys.stdin.isatty():
        import getpass

        password = getpass.getpass(f"Password for {username}@{found.server}: ")
    return username, "null" if password is None else password

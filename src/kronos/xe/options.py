"""What the user said of the server, from the command line, XE_EXTRA_ARGS and ~/.xe, in this order of weight."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

LOCAL = ("127.0.0.1", "localhost")
_SWITCHES = {
    "-s": "server",
    "-h": "server",
    "-p": "port",
    "-u": "username",
    "-pw": "password",
    "-pwf": "passwordfile",
    "--traceparent": "traceparent",
}
_FLAGS = {"--nossl": "nossl", "--debug": "debug", "--debug-on-fail": "debugonfail"}
_KEYWORDS = frozenset((*_SWITCHES.values(), *_FLAGS.values()))


class Usage(Exception):
    """The command line cannot be sent; with a text if the user has to hear why."""


class Options:
    """How to reach the server, and the words to send to it."""

    __slots__ = ("known", "words")

    def __init__(self) -> None:
        self.known: dict[str, str] = {}
        self.words: list[str] = []

    @property
    def server(self) -> str:
        return self.known.get("server", "127.0.0.1")

    @property
    def local(self) -> bool:
        return self.server in LOCAL

    @property
    def tls(self) -> bool:
        return not self.local and not self._flag("nossl")

    @property
    def port(self) -> int:
        """Raises Usage."""
        text = self.known.get("port")
        if text is None:
            return 443 if self.tls else 80
        if not text.isdigit() or int(text) > 65535:
            raise Usage("Port number must be an integer (0-65535)")
        return int(text)

    @property
    def debug(self) -> bool:
        return self._flag("debug")

    @property
    def debug_on_fail(self) -> bool:
        return self._flag("debugonfail")

    def _flag(self, name: str) -> bool:
        return self.known.get(name, "").lower() in ("true", "yes", "1", "t", "y")


def read(arguments: Sequence[str], environment: Mapping[bytes, bytes]) -> Options:
    """The options of a command line, with those of the environment and of ~/.xe where it says nothing.

    Raises Usage.
    """
    options = Options()
    resource = _sort(resource_lines(environment), options)
    extra = _sort(
        extra_arguments(environment.get(b"XE_EXTRA_ARGS", b"").decode("utf-8", "surrogateescape")), options
    )
    if any(word in ("-help", "--help") for word in arguments):
        raise Usage
    options.words = _sort(arguments, options) + extra + resource
    if not options.words:
        raise Usage
    return options


def _sort(words: Sequence[str], options: Options) -> list[str]:
    """Take what is meant for this client into `options`, and return the rest."""
    rest = []
    pending = iter(words)
    for word in pending:
        if word in _FLAGS:
            options.known[_FLAGS[word]] = "true"
        elif word in _SWITCHES:
            value = next(pending, None)
            if value is None:
                raise Usage(f"{word} needs a value")
            options.known[_SWITCHES[word]] = value
        else:
            name, equals, value = word.partition("=")
            if equals and name in _KEYWORDS:
                options.known[name] = value
            else:
                rest.append(word)
    return rest


def extra_arguments(text: str) -> list[str]:
    """The words of XE_EXTRA_ARGS, separated by commas; `\\,` is a comma within a word.

    >>> extra_arguments(r"server=h,password=a\\,b")
    ['server=h', 'password=a,b']
    """
    words = [""]
    escaped = False
    for letter in text:
        if escaped:
            words[-1] += letter
            escaped = False
        elif letter == "\\":
            escaped = True
        elif letter == ",":
            words.append("")
        else:
            words[-1] += letter
    return [word for word in words if word]


def resource_lines(environment: Mapping[bytes, bytes]) -> list[str]:
    """The lines `name=value` of ~/.xe."""
    home = environment.get(b"HOME")
    if not home:
        return []
    try:
        # Loading pathlib takes 8 ms, and xe is to start at once.
        with open(home + b"/.xe", encoding="utf-8", errors="surrogateescape") as file:  # noqa: PTH123
            lines = file.read().splitlines()
    except OSError:
        return []
    return [line.strip() for line in lines if "=" in line and not line.lstrip().startswith("#")]


def login_file(path: str) -> tuple[str, str]:
    """The user on the first line of a file and the password on the second. Raises Usage."""
    try:
        # Loading pathlib takes 8 ms, and xe is to start at once.
        with open(path, encoding="utf-8") as file:  # noqa: PTH123
            lines = file.read().splitlines()
    except OSError as error:
        raise Usage(f"Error opening password file '{path}'") from error
    if len(lines) < 2:
        raise Usage("The password file needs the username on its first line and the password on its second")
    return lines[0], lines[1]

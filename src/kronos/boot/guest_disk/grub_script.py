"""The language of grub.cfg: words, commands and blocks. What they do is `grub2`'s matter.

The text is a guest's: words, commands and depth are counted, and too many of them are refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from kronos.boot.guest_disk.unreadable import BootUnreadable

_MOST_WORDS = 100_000
_MOST_PARTS = 1000  # of one word; what follows is the next
_DEEPEST = 32
_BLANK = " \t\r"
_OPENING = ("menuentry", "submenu", "function")


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of a word: text, or a variable's name."""

    text: str
    variable: bool = False
    quoted: bool = False


Word = tuple[Part, ...]


@dataclass(slots=True)
class Command:
    """A command with its words, and the block in braces that belongs to it."""

    words: list[Word]
    block: list[Statement] = field(default_factory=list)


@dataclass(slots=True)
class Condition:
    """if: the branches, each with what is asked and what is done; the last one's question may be empty (else)."""

    branches: list[tuple[list[Statement], list[Statement]]]


Statement = Command | Condition


def parse(untrusted_text: str) -> list[Statement]:
    """The statements of a configuration. Raises BootUnreadable."""
    parser = _Parser(_tokens(untrusted_text))
    found: list[Statement] = []
    while parser.ahead is not None:
        found += parser.statements(())
        parser.next()  # a stray `}` or `fi`: GRUB would stop here; the rest may still tell something
    return found


def plain(word: Word) -> str:
    """The word if it is one without quotes and variables, else nothing: keywords and braces are such."""
    return word[0].text if len(word) == 1 and not word[0].variable and not word[0].quoted else ""


# None ends a command: a newline or a semicolon.
_Token = Word | None


def _tokens(text: str) -> Iterator[_Token]:
    at, count, end = 0, 0, len(text)
    while at < end:
        character = text[at]
        if character in "\n;":
            yield None
            at += 1
        elif character in _BLANK:
            at += 1
        elif text.startswith("\\\n", at):
            at += 2
        elif character == "#":
            newline = text.find("\n", at)
            at = end if newline < 0 else newline
        else:
            word, at = _Lexer(text, at).word()
            count += len(word)
            if count > _MOST_WORDS:
                raise BootUnreadable(f"the boot loader's configuration has more than {_MOST_WORDS} words")
            yield word


class _Lexer:
    """One word, from where it begins."""

    def __init__(self, text: str, at: int) -> None:
        self.text = text
        self.at = at
        self.parts: list[Part] = []

    def word(self) -> tuple[Word, int]:
        text, end = self.text, len(self.text)
        while self.at < end and text[self.at] not in _BLANK and text[self.at] not in "\n;":
            character = text[self.at]
            if len(self.parts) > _MOST_PARTS:
                break
            if character == "'":
                close = text.find("'", self.at + 1)
                close = end if close < 0 else close
                self.parts.append(Part(text[self.at + 1 : close], quoted=True))
                self.at = close + 1
            elif character == '"':
                self.at += 1
                self._double_quoted()
            elif character == "$":
                self._variable(quoted=False)
            elif character == "\\":
                if text[self.at + 1 : self.at + 2] != "\n":
                    self.parts.append(Part(text[self.at + 1 : self.at + 2], quoted=True))
                self.at += 2
            else:
                self._run("'\"$\\ \t\r\n;", quoted=False)
        return tuple(self.parts), self.at

    def _double_quoted(self) -> None:
        text, end = self.text, len(self.text)
        self.parts.append(Part("", quoted=True))
        while self.at < end and text[self.at] != '"':
            if text[self.at] == "$":
                self._variable(quoted=True)
            elif text[self.at] == "\\" and text[self.at + 1 : self.at + 2] in ('"', "$", "\\", "\n"):
                if text[self.at + 1] != "\n":
                    self.parts.append(Part(text[self.at + 1], quoted=True))
                self.at += 2
            elif text[self.at] == "\\":
                self.parts.append(Part("\\", quoted=True))
                self.at += 1
            else:
                self._run('"$\\', quoted=True)
        self.at += 1

    def _run(self, stops: str, *, quoted: bool) -> None:
        start = self.at
        while self.at < len(self.text) and self.text[self.at] not in stops:
            self.at += 1
        self.parts.append(Part(self.text[start : self.at], quoted=quoted))

    def _variable(self, *, quoted: bool) -> None:
        text, start = self.text, self.at + 1
        if text.startswith("{", start):
            close = text.find("}", start, start + 70)
            name, self.at = (text[start + 1 : close], close + 1) if close > 0 else ("", start + 1)
        else:
            self.at = start
            while self.at < len(text) and (text[self.at].isalnum() or text[self.at] == "_"):
                self.at += 1
            if self.at == start and text[start : start + 1] in ("?", "@", "*", "#"):
                self.at += 1
            name = text[start : self.at]
        self.parts.append(Part(name, variable=True, quoted=quoted) if name else Part("$", quoted=True))


class _Parser:
    def __init__(self, tokens: Iterator[_Token]) -> None:
        self.tokens = tokens
        self.depth = 0
        self.ahead: list[_Token] | None = []  # one token, or None at the end
        self.next()

    def next(self) -> None:
        try:
            self.ahead = [next(self.tokens)]
        except StopIteration:
            self.ahead = None

    def statements(self, ends: tuple[str, ...]) -> list[Statement]:
        """Up to a word of `ends`, a closing brace or the end of the text; that word is still ahead."""
        self.depth += 1
        if self.depth > _DEEPEST:
            raise BootUnreadable(f"the boot loader's configuration is nested more than {_DEEPEST} deep")
        found: list[Statement] = []
        while self.ahead is not None:
            word = self.ahead[0]
            keyword = "" if word is None else plain(word)
            if keyword == "}" or keyword in ends:
                break
            if word is None:
                self.next()
            elif keyword == "if":
                found.append(self._condition())
            elif keyword in ("while", "until", "for"):
                self._loop()
            else:
                found.append(self._command())
        self.depth -= 1
        return found

    def _condition(self) -> Condition:
        branches = []
        while self._keyword() in ("if", "elif"):
            self.next()
            asked = self.statements(("then", "fi"))
            self._pass("then")
            branches.append((asked, self.statements(("elif", "else", "fi"))))
        if self._keyword() == "else":
            self.next()
            branches.append(([], self.statements(("fi",))))
        self._pass("fi")
        return Condition(branches)

    def _loop(self) -> None:
        """Loops wait for keys or walk over devices; none chooses a kernel, and one may have no end."""
        self.next()
        self.statements(("do", "done"))
        self._pass("do")
        self.statements(("done",))
        self._pass("done")

    def _command(self) -> Command:
        command = Command([])
        while self.ahead is not None and self.ahead[0] is not None:
            word = self.ahead[0]
            if plain(word) == "{" and (not command.words or plain(command.words[0]) in _OPENING):
                self.next()
                command.block = self.statements(())
                self._pass("}")
                break
            if plain(word) == "}":
                break
            command.words.append(word)
            self.next()
        return command

    def _keyword(self) -> str:
        return plain(self.ahead[0]) if self.ahead is not None and self.ahead[0] is not None else ""

    def _pass(self, keyword: str) -> None:
        if self._keyword() == keyword:
            self.next()

"""The query language of get_all_where and get_all_records_where: fields equal to literals, and/or/not.

    value  = "literal" | field "name__label"
    expr   = value = value | true | false | ( expr ) | not expr | expr and expr | expr or expr

The grammar is xapi's, with its two surprises: `and` and `or` have the same precedence and group to the left,
and both bind tighter than `not`, which therefore takes in everything up to the closing parenthesis
(db_filter_parse.mly declares LNOT before LAND and LOR). A literal has no escapes, so it
cannot hold a double quote. Fields are compared in the form that `db_string` gives.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from kronos.datamodel.errors import Failure

MAX_LENGTH = 1024 * 1024  # characters; a list of a thousand references takes a tenth of it
MAX_NESTING = 200  # parentheses and `not` within one another

_TOKEN = re.compile(r'(true|false|and|or|not|field|=|\(|\))|"([^"]*)"|([^ \t\n])|[ \t\n]+')
_LETTERS_TO_ESCAPE = re.compile(r"""[\\"']""")


@dataclass(frozen=True, slots=True)
class Literal:
    text: str

    def __str__(self) -> str:
        return f'"{self.text}"'


@dataclass(frozen=True, slots=True)
class Column:
    """A field by its database name: `name__label`, `_ref`."""

    name: str

    def __str__(self) -> str:
        return f'field "{self.name}"'


Operand = Literal | Column


@dataclass(frozen=True, slots=True)
class Equal:
    left: Operand
    right: Operand

    def __str__(self) -> str:
        return f"{self.left}={self.right}"


@dataclass(frozen=True, slots=True)
class Constant:
    value: bool

    def __str__(self) -> str:
        return "true" if self.value else "false"


@dataclass(frozen=True, slots=True)
class Chain:
    """Terms joined from left to right; a link is ("and" or "or", the next term)."""

    first: Term
    links: tuple[tuple[str, Term], ...] = ()

    def __str__(self) -> str:
        return " ".join([_printed(self.first), *(f"{word} {_printed(term)}" for word, term in self.links)])

    def conjuncts(self) -> Iterator[Term]:
        """Terms that must all hold for the chain to hold, though they need not suffice."""
        terms = (("and", self.first), *self.links)
        last_or = max((place for place, (word, _) in enumerate(terms) if word == "or"), default=-1)
        return iter([term for _, term in terms[last_or + 1 :]])


@dataclass(frozen=True, slots=True)
class Not:
    """Always the last term of its chain."""

    chain: Chain

    def __str__(self) -> str:
        return f"not {self.chain}"


Term = Equal | Constant | Not | Chain


def _printed(term: Term) -> str:
    return f"({term})" if isinstance(term, Chain) else str(term)


@dataclass(frozen=True, slots=True)
class Predicate:
    """A parsed query. `str()` gives a query that means the same."""

    expression: str
    chain: Chain

    def __call__(self, field: Callable[[str], str]) -> bool:
        """Whether a row matches; `field` gives the row's columns as `db_string` has them, or raises KeyError.

        As in xapi, what the left of an `and` or `or` decides leaves its right unread. Raises INVALID_VALUE
        for an unknown column.
        """
        try:
            return _holds(self.chain, field)
        except KeyError as missing:
            raise Failure(
                "INVALID_VALUE", self.expression, f"There is no field {missing.args[0]!r}"
            ) from missing

    def __str__(self) -> str:
        return str(self.chain)

    def equalities(self) -> dict[str, str]:
        """Columns that must have this value in every row that matches: a hint for a look-up in an index.

        Such rows need not match, and are still to be asked.
        """
        found: dict[str, str] = {}
        chains = [self.chain]
        while chains:
            for term in chains.pop().conjuncts():
                match term:
                    case Chain():
                        chains.append(term)
                    case Equal(Column(name), Literal(text)) | Equal(Literal(text), Column(name)):
                        found.setdefault(name, text)
        return found


def _holds(chain: Chain, field: Callable[[str], str]) -> bool:
    wanted = True
    while True:
        value = False
        for word, term in (("or", chain.first), *chain.links):
            if value is (word == "or"):
                continue
            if isinstance(term, Not):
                break
            value = _term_holds(term, field)
        else:
            return value is wanted
        # The negated chain decides now, as nothing comes after it.
        chain, wanted = term.chain, not wanted


def _term_holds(term: Equal | Constant | Chain, field: Callable[[str], str]) -> bool:
    match term:
        case Equal(left, right):
            return _text(left, field) == _text(right, field)
        case Constant(value):
            return value
        case Chain():
            return _holds(term, field)


def _text(operand: Operand, field: Callable[[str], str]) -> str:
    return operand.text if isinstance(operand, Literal) else field(operand.name)


def parse(untrusted_expression: str) -> Predicate:
    """The query as a predicate. Raises INVALID_VALUE with the expression and what is wrong with it."""
    if len(untrusted_expression) > MAX_LENGTH:
        raise Failure(
            "INVALID_VALUE", f"{untrusted_expression[:100]}…", f"Longer than {MAX_LENGTH} characters"
        )
    try:
        return Predicate(untrusted_expression, _Parser(untrusted_expression).chain())
    except _Wrong as wrong:
        raise Failure("INVALID_VALUE", untrusted_expression, str(wrong)) from None


class _Wrong(Exception):
    pass


class _Frame:
    """A chain being read: opened by a parenthesis, by `not`, or by the start."""

    __slots__ = ("links", "opener", "word")

    def __init__(self, opener: str) -> None:
        self.opener = opener
        self.word = "first"
        self.links: list[tuple[str, Term]] = []

    def add(self, term: Term) -> None:
        self.links.append((self.word, term))
        self.word = ""

    def chain(self) -> Chain:
        (_, first), *rest = self.links
        return Chain(first, tuple(rest))


class _Parser:
    """Keeps its own stack, so that no input can exhaust the interpreter's."""

    def __init__(self, expression: str) -> None:
        self._found = (found for found in _TOKEN.finditer(expression) if found.lastindex is not None)
        self._frames = [_Frame("")]

    def chain(self) -> Chain:
        while (found := next(self._found, None)) is not None:
            frame = self._frames[-1]
            if not frame.word:
                self._after_term(frame, found)
            else:
                self._term(frame, found)
        self._fold_nots()
        if self._frames[-1].opener:
            raise _Wrong("Missing )")
        return self._complete(self._frames[-1], "at the end")

    def _after_term(self, frame: _Frame, found: re.Match[str]) -> None:
        match found[1]:
            case "and" | "or" as word:
                frame.word = word
            case ")":
                self._close(found)
            case _:
                raise _Wrong(f"Expected and, or, or ) {_place(found)}")

    def _term(self, frame: _Frame, found: re.Match[str]) -> None:
        match found[1]:
            case "(" | "not" as opener:
                if len(self._frames) > MAX_NESTING:
                    raise _Wrong(f"More than {MAX_NESTING} levels {_place(found)}")
                self._frames.append(_Frame(opener))
            case "true" | "false" as word:
                frame.add(Constant(word == "true"))
            case _:
                left = self._operand(found)
                equals = next(self._found, None)
                if equals is None or equals[1] != "=":
                    raise _Wrong(f"Expected = {_place(equals)}")
                frame.add(Equal(left, self._operand(next(self._found, None))))

    def _operand(self, found: re.Match[str] | None) -> Operand:
        if found is not None and found[2] is not None:
            return Literal(found[2])
        if found is not None and found[1] == "field":
            name = next(self._found, None)
            if name is None or name[2] is None:
                raise _Wrong(f"Expected a field's name in double quotes {_place(name)}")
            return Column(name[2])
        raise _Wrong(f"Expected a value {_place(found)}")

    def _close(self, found: re.Match[str]) -> None:
        self._fold_nots()
        if self._frames[-1].opener != "(":
            raise _Wrong(f"Unexpected ) {_place(found)}")
        closed = self._complete(self._frames.pop(), _place(found))
        # Parentheses around a single term add nothing, except that a Not inside would no longer be last.
        alone = not closed.links and not isinstance(closed.first, Not)
        self._frames[-1].add(closed.first if alone else closed)

    def _fold_nots(self) -> None:
        while self._frames[-1].opener == "not":
            negated = self._complete(self._frames.pop(), "after not")
            self._frames[-1].add(Not(negated))

    @staticmethod
    def _complete(frame: _Frame, place: str) -> Chain:
        if frame.word:
            raise _Wrong(f"Expected a value {place}")
        return frame.chain()


def _place(found: re.Match[str] | None) -> str:
    if found is None:
        return "at the end"
    return f"at character {max(found.start(1), found.start(2) - 1, found.start(3)) + 1}"


def db_string(value: object) -> str:
    """A field's value in the text form that queries compare with (xapi's database form)."""
    match value:
        case str():
            return value
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case float():
            return f"{value:.18g}"
        case dict():
            return _list(f"({_quoted(key)} {_quoted(item)})" for key, item in value.items())
        case list() | tuple() | set() | frozenset():
            return _list(_quoted(item) for item in value)
        case _:
            raise TypeError(f"no database form for {type(value).__name__}")


def _list(items: Iterator[str]) -> str:
    return f"({' '.join(items)})"


def _quoted(value: object) -> str:
    escaped = _LETTERS_TO_ESCAPE.sub(lambda found: "\\" + found.group(), db_string(value))
    return f"'{escaped}'"

"""The handlers: which function answers which message, checked against the facts as it is declared."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from kronos.datamodel.model import Message, model
from kronos.datamodel.types import (
    BoolType,
    FloatType,
    IntType,
    MapType,
    OptionType,
    RecordType,
    SetType,
    Type,
    VoidType,
)

if TYPE_CHECKING:
    from kronos.dispatch.call import Call

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Handler:
    """A function that answers one message.

    `holds` is the operation that it enters on the object that its first argument names, for as long as it runs;
    `inline` marks one that touches memory alone and so runs on the loop; coroutines run there too.
    """

    message: Message
    function: Callable[..., Any]
    holds: str
    inline: bool
    coroutine: bool


HANDLERS: dict[str, Handler] = {}


class Mismatch(TypeError):
    """A handler that does not fit the facts: the daemon does not start with one."""


def message(name: str, *, holds: str = "", inline: bool = False) -> Callable[[F], F]:
    """Declare the function below as the handler of a XenAPI message: `@message("VM.start", holds="start")`."""

    def declare(function: F) -> F:
        known = model().messages.get(name)
        if known is None:
            raise Mismatch(f"{name} is not in the facts")
        if name in HANDLERS:
            raise Mismatch(f"{name} has two handlers")
        check_signature(known, function)
        HANDLERS[name] = Handler(known, function, holds, inline, inspect.iscoroutinefunction(function))
        return function

    return declare


Following = Callable[["Call", tuple[Any, ...], Any], None]
FOLLOWING: dict[str, Following] = {}


def afterwards(*names: str) -> Callable[[Following], Following]:
    """Declare what follows these messages once their handlers have succeeded: it gets the call, the arguments and the
    value. For handlers that run on a worker, neither inline ones nor coroutines."""

    def declare(function: Following) -> Following:
        for name in names:
            if name in FOLLOWING or name not in model().messages:
                raise Mismatch(f"what follows {name} is declared twice, or it is not in the facts")
            FOLLOWING[name] = function
        return function

    return declare


def check_signature(known: Message, function: Callable[..., Any]) -> None:
    """Raises Mismatch where a function's parameters are not those of the facts, after `call`."""
    given = list(inspect.signature(function).parameters.values())
    where = f"{function.__module__}.{function.__name__} for {known.full_name}"
    if not given or given[0].name != "call":
        raise Mismatch(f"{where}: the first parameter is `call`")
    if len(given) - 1 != len(known.params):
        raise Mismatch(f"{where}: takes {len(given) - 1} parameters, the facts say {len(known.params)}")
    for param, wanted in zip(given[1:], known.params, strict=True):
        said = str(param.annotation).partition("[")[0]
        if said != spelled(wanted.type):
            raise Mismatch(f"{where}: {param.name} is {param.annotation}, the facts say {wanted.type.spec}")


def spelled(kind: Type) -> str:
    """The Python type of a XenAPI type, without its parameters."""
    table: tuple[tuple[type[Type], str], ...] = (
        (IntType, "int"),
        (FloatType, "float"),
        (BoolType, "bool"),
        (SetType, "tuple"),
        (MapType, "dict"),
        (RecordType, "dict"),
        (VoidType, "None"),
        (OptionType, "Any"),
    )
    return next((name for cls, name in table if isinstance(kind, cls)), "str")

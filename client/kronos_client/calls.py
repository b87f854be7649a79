"""XenAPI's classes as attributes and their messages as methods. What each takes and answers is in calls.pyi."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kronos_client.messages import MESSAGES

Perform = Callable[[str, str, tuple[Any, ...], dict[str, Any]], Any]
"""Makes one call: class, message, arguments by place and by name."""


class Classes:
    """`xapi.VM`, `xapi.host`, …"""

    def __init__(self, perform: Perform) -> None:
        self.__perform = perform

    def __getattr__(self, name: str) -> Any:
        if name not in MESSAGES:
            raise AttributeError(f"XenAPI has no class {name}")
        found = _Class(name, self.__perform)
        setattr(self, name, found)
        return found

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *MESSAGES})


class Tasks(Classes):
    """As Classes, where every call answers a task; messages that XenAPI does not offer so are refused by the host."""


class _Class:
    def __init__(self, name: str, perform: Perform) -> None:
        self.__name, self.__perform = name, perform

    def __getattr__(self, name: str) -> Callable[..., Any]:
        # A keyword of Python's has an underscore after it: event.from_.
        cls, message = self.__name, name.removesuffix("_")
        if message not in MESSAGES[cls]:
            raise AttributeError(f"XenAPI has no message {cls}.{message}")
        perform = self.__perform

        def made(*given: Any, **named: Any) -> Any:
            return perform(cls, message, given, named)

        made.__name__ = made.__qualname__ = f"{cls}.{message}"
        made.__doc__ = f"{cls}.{message}({', '.join(MESSAGES[cls][message])})"
        setattr(self, name, made)
        return made

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *MESSAGES[self.__name]})

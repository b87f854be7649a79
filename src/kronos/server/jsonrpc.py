"""JSON-RPC 1.0 and 2.0: request bodies to calls, and the replies of both versions.

What differs between them is the place of an error. 2.0: `{"code": 1, "message": CODE, "data": [parameters]}`;
1.0: `[CODE, parameters…]`. Clients compare the message with XenAPI's codes, and some demand that `data` is an array.

Parameters are always an array, and an id is never null: XenAPI has neither named parameters nor notifications.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from kronos.datamodel.errors import Failure

try:
    import orjson
except ImportError:  # not every distribution has it; the standard library takes its place
    orjson = None

MAX_DEPTH: Final = 64
MAX_BATCH: Final = 100
"""Calls in one batch; they run one after the other."""

CONTENT_TYPE: Final = b"application/json"
API_ERROR: Final = 1
PARSE_ERROR: Final = -32700
INVALID_REQUEST: Final = -32600
INTERNAL_ERROR: Final = -32603

_LONE_SURROGATE: Final = re.compile(rb"\\u[dD][89a-fA-F]")


@dataclass(slots=True)
class Call:
    """One call of a request; `id` is its id as JSON text, to be sent back as it came."""

    name: str
    args: list[object]
    id: bytes
    version: int


class Malformed(Exception):
    """What arrived is no JSON-RPC call. `code` is JSON-RPC 2.0's, `id` what could be read of the call's id."""

    def __init__(self, code: int, text: str, call_id: bytes = b"null", version: int = 2) -> None:
        super().__init__(text)
        self.code = code
        self.text = text
        self.id = call_id
        self.version = version

    def reply(self) -> bytes:
        if self.version == 1:
            return b'{"result":null,"error":%b,"id":%b}' % (dumps([self.text]), self.id)
        return _error_2(self.code, self.text, (), self.id)


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError("a number without a finite value")
    return value


def _refuse_constant(name: str) -> object:
    raise ValueError(f"{name} is not JSON")


_DECODER: Final = json.JSONDecoder(parse_float=_finite, parse_constant=_refuse_constant)
_SCAN: Final[Callable[[str, int], tuple[Any, int]]] = vars(_DECODER)["scan_once"]
_ENCODER: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def _std_loads(body: bytes) -> Any:
    # The decoder's own scanner: half the time of `decode`, which looks for white space with two patterns.
    text = body.decode().strip(" \t\r\n")
    try:
        value, end = _SCAN(text, 0)
    except StopIteration as error:
        raise ValueError(f"no value at {error.value}") from error
    if end != len(text):
        raise ValueError(f"more after the value at {end}")
    return value


_loads: Final[Callable[[bytes], Any]] = _std_loads if orjson is None else orjson.loads


def dumps(value: object) -> bytes:
    """JSON text of plain values; a lone surrogate, which UTF-8 cannot carry, becomes "?"."""
    return _ENCODER.encode(value).encode("utf-8", "replace")


def parse(untrusted_body: bytes) -> Call | list[Call | Malformed]:
    """The call of a request, or the calls of a 2.0 batch; a wrong one among them spoils only itself.

    Raises Malformed, and Failure INVALID_VALUE for a text that is not UTF-8.
    """
    try:
        request = _loads(untrusted_body)
    except UnicodeDecodeError as error:
        raise Malformed(PARSE_ERROR, "the request is not UTF-8") from error
    except ValueError as error:
        raise Malformed(PARSE_ERROR, f"not JSON: {error}") from error
    except RecursionError:
        raise Malformed(PARSE_ERROR, f"nested more than {MAX_DEPTH} deep") from None
    # Counting brackets costs nothing; most requests have fewer than the bound and need no walk.
    if untrusted_body.count(b"[") + untrusted_body.count(b"{") > MAX_DEPTH:
        _check_depth(request)
    if isinstance(request, list):
        return _batch(request)
    call = _call(request)
    if b"\\u" in untrusted_body and _LONE_SURROGATE.search(untrusted_body) is not None:
        _check_text(call)
    return call


def _batch(requests: list[object]) -> list[Call | Malformed]:
    if not requests:
        raise Malformed(INVALID_REQUEST, "an empty batch")
    if len(requests) > MAX_BATCH:
        raise Malformed(INVALID_REQUEST, f"more than {MAX_BATCH} calls in a batch")
    calls: list[Call | Malformed] = []
    for request in requests:
        try:
            call = _call(request)
            if call.version == 1:
                raise Malformed(INVALID_REQUEST, "only JSON-RPC 2.0 has batches", call.id)
            _check_text(call)
            calls.append(call)
        except Malformed as malformed:
            calls.append(malformed)
        except Failure as failure:
            calls.append(Malformed(INVALID_REQUEST, str(failure), call.id))
    return calls


def _call(request: object) -> Call:
    if not isinstance(request, dict):
        raise Malformed(INVALID_REQUEST, "a call is an object")
    version = _version(request.get("jsonrpc", "1.0"))
    call_id = _id(request.get("id"), version)
    name = request.get("method")
    if not isinstance(name, str):
        raise Malformed(INVALID_REQUEST, "method is a string", call_id, version)
    args = request.get("params", [])
    if not isinstance(args, list):
        raise Malformed(INVALID_REQUEST, "params is an array", call_id, version)
    return Call(name, args, call_id, version)


def _version(untrusted: object) -> int:
    if untrusted == "2.0":
        return 2
    if untrusted == "1.0":
        return 1
    raise Malformed(INVALID_REQUEST, "jsonrpc is 1.0 or 2.0")


def _id(untrusted: object, version: int) -> bytes:
    if type(untrusted) is int:
        return b"%d" % untrusted
    if isinstance(untrusted, str | float):
        return dumps(untrusted)
    raise Malformed(INVALID_REQUEST, "id is a number or a string", version=version)


def _check_depth(value: object) -> None:
    level = [value]
    for _depth in range(MAX_DEPTH):
        inner: list[object] = []
        for each in level:
            values = each.values() if isinstance(each, dict) else each if isinstance(each, list) else ()
            inner.extend([item for item in values if isinstance(item, dict | list)])
        if not inner:
            return
        level = inner
    raise Malformed(PARSE_ERROR, f"nested more than {MAX_DEPTH} deep")


def _check_text(call: Call) -> None:
    r"""Refuse an escape such as \ud800 that stands alone: no reply and no database could write it again."""
    for value in (call.name, call.args):
        try:
            _ENCODER.encode(value).encode()
        except UnicodeEncodeError as error:
            shown = str(error.object)[max(0, error.start - 20) : error.end + 20]
            safe = shown.encode("utf-8", "replace").decode()
            raise Failure("INVALID_VALUE", "Invalid UTF-8 string in parameter", safe) from error


def success(call: Call, value_json: Sequence[bytes]) -> tuple[bytes, ...]:
    """The reply that carries a value, in parts: a large value is not copied on its way out."""
    if call.version == 1:
        return b'{"result":', *value_json, b',"error":null,"id":%b}' % call.id
    return b'{"jsonrpc":"2.0","result":', *value_json, b',"id":%b}' % call.id


def failure(call: Call, description: Sequence[str]) -> bytes:
    """The reply for a XenAPI error: its code and parameters."""
    if call.version == 1:
        return b'{"result":null,"error":%b,"id":%b}' % (dumps(list(description)), call.id)
    return _error_2(API_ERROR, description[0], description[1:], call.id)


def fault(call: Call, text: str) -> bytes:
    """The reply for what is wrong with the call itself, outside XenAPI's own errors."""
    if call.version == 1:
        return b'{"result":null,"error":%b,"id":%b}' % (dumps([text]), call.id)
    return _error_2(INTERNAL_ERROR, text, (), call.id)


def _error_2(code: int, message: str, data: Sequence[str], call_id: bytes) -> bytes:
    return b'{"jsonrpc":"2.0","error":{"code":%d,"message":%b,"data":%b},"id":%b}' % (
        code,
        dumps(message),
        dumps(list(data)),
        call_id,
    )

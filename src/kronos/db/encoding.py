"""JSON by the standard library, without what it does anew at each call."""

from __future__ import annotations

import json
import json.encoder
from collections.abc import Callable
from typing import Any


def encoder(*, ascii_only: bool) -> Callable[[Any], str]:
    """A function that writes compact JSON of trees: sets and dates are refused, a cycle is an endless recursion.

    NaN and the infinities are written as Python reads them back.
    """
    plain = json.JSONEncoder(ensure_ascii=ascii_only, separators=(",", ":"), check_circular=False)
    make: Any = vars(json.encoder).get("c_make_encoder")
    if make is None:
        return plain.encode
    quoted = json.encoder.encode_basestring_ascii if ascii_only else json.encoder.encode_basestring
    # JSONEncoder makes this object for each value, which takes longer than most values do.
    chunks = make(None, plain.default, quoted, None, ":", ",", False, False, True)

    def encode(value: Any) -> str:
        if type(value) is str:
            return quoted(value)
        return "".join(chunks(value, 0))

    return encode

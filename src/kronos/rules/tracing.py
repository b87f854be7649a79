"""Traces: which observers are good, and what a span looks like to those that collect them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlsplit

from kronos.datamodel.errors import Failure

COMPONENTS: Final = ("xapi", "xenopsd", "xapi-clusterd", "smapi")
"""What an observer may name. Here all of it is one process, whose spans are the first one's."""
OURS: Final = "xapi"
FILE: Final = "bugtool"
"""The endpoint that is a file on the host."""
LONGEST: Final = 4095

_KEY = re.compile(r"[a-z0-9][a-z0-9._]{0,253}[a-z0-9]")
_PARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}(-.*)?")


@dataclass(slots=True)
class Span:
    """One call; times in nanoseconds since the epoch."""

    name: str
    trace: str
    id: str
    parent: str
    begun: int
    ended: int = 0
    error: str = ""
    attributes: dict[str, str] = field(default_factory=dict)


def parent_of(untrusted_traceparent: str) -> tuple[str, str]:
    """The trace and the span that a client's `traceparent` header names; two empty strings where it names none."""
    found = _PARENT.fullmatch(untrusted_traceparent)
    if found is None or not int(found[1], 16) or not int(found[2], 16):
        return "", ""
    return found[1], found[2]


def assert_components(components: Iterable[str]) -> None:
    """Raises INVALID_VALUE ["component", name]."""
    for each in components:
        if each not in COMPONENTS:
            raise Failure("INVALID_VALUE", "component", each)


def assert_endpoints(endpoints: Iterable[str]) -> None:
    """Raises INVALID_VALUE ["endpoint", url]."""
    for each in endpoints:
        if each != FILE and not _is_address(each):
            raise Failure("INVALID_VALUE", "endpoint", each)


def _is_address(untrusted: str) -> bool:
    try:
        parts = urlsplit(untrusted)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def assert_attributes(attributes: Mapping[str, str]) -> None:
    """Raises INVALID_VALUE ["attributes", "key:value"]."""
    for key, value in attributes.items():
        if not _KEY.fullmatch(key) or len(value.encode()) > LONGEST:
            raise Failure("INVALID_VALUE", "attributes", f"{key}:{value}"[:LONGEST])


def is_otlp(endpoint: str) -> bool:
    """Whether an endpoint takes OpenTelemetry's own form, by its customary path; any other takes Zipkin's."""
    return urlsplit(endpoint).path.rstrip("/").endswith("/v1/traces")


def otlp(spans: Iterable[Span], attributes: Mapping[str, str]) -> dict[str, Any]:
    """Spans as OpenTelemetry takes them over HTTP, in JSON; `attributes` are the service's own."""
    return {
        "resourceSpans": [
            {
                "resource": {"attributes": _pairs({"service.name": OURS, **attributes})},
                "scopeSpans": [{"scope": {"name": OURS}, "spans": [_otlp(span) for span in spans]}],
            }
        ]
    }


def _otlp(span: Span) -> dict[str, Any]:
    status = {"code": 2, "message": span.error} if span.error else {"code": 1}
    made = {
        "traceId": span.trace,
        "spanId": span.id,
        "name": span.name,
        "kind": 1 if span.parent else 2,
        "startTimeUnixNano": str(span.begun),
        "endTimeUnixNano": str(span.ended),
        "attributes": _pairs(span.attributes),
        "status": status,
    }
    return made | ({"parentSpanId": span.parent} if span.parent else {})


def _pairs(attributes: Mapping[str, str]) -> list[dict[str, Any]]:
    return [{"key": key, "value": {"stringValue": value}} for key, value in attributes.items()]


def zipkin(spans: Iterable[Span], attributes: Mapping[str, str]) -> list[dict[str, Any]]:
    """Spans as Zipkin takes them, version 2, in JSON."""
    made = []
    for span in spans:
        tags = {**attributes, **span.attributes} | ({"error": span.error} if span.error else {})
        one = {
            "traceId": span.trace,
            "id": span.id,
            "name": span.name,
            "timestamp": span.begun // 1000,
            "duration": max(1, (span.ended - span.begun) // 1000),
            "localEndpoint": {"serviceName": OURS},
            "tags": tags,
        }
        made.append(one | ({"parentId": span.parent} if span.parent else {"kind": "SERVER"}))
    return made

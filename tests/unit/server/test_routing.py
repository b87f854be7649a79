"""Requests, credentials and the table of doors."""

from __future__ import annotations

from base64 import b64encode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kronos.dispatch.call import Origin
from kronos.server.replies import reply_bytes, reply_to_missing
from kronos.server.routing import (
    Credentials,
    Doors,
    OnThread,
    Page,
    Reply,
    Request,
    credentials,
    error_page,
    failure_page,
)

REMOTE = Origin(False, "192.0.2.1", True, "")


def request(method: str = "GET", target: str = "/", source: Origin = REMOTE, **headers: str) -> Request:
    encoded = {name.replace("_", "-").encode(): value.encode() for name, value in headers.items()}
    return Request(method.encode(), target.encode(), encoded, source, True)


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        ("/export?uuid=a&use_compression=true", "/export", {"uuid": "a", "use_compression": "true"}),
        ("/a%20b?x=%2F%3D&y=", "/a b", {"x": "/=", "y": ""}),
        ("/console?ref=OpaqueRef:1", "/console", {"ref": "OpaqueRef:1"}),
        ("http://host:80/x?y=1", "/x", {"y": "1"}),
        ("http://host", "/", {}),
        ("/a?x=1&x=2#f", "/a", {"x": "2"}),
        ("//other/x", "//other/x", {}),
        ("*", "*", {}),
    ],
)
def test_a_target_is_split_and_decoded(target: str, path: str, query: dict[str, str]) -> None:
    found = request(target=target)
    assert (found.path, found.query) == (path, query)


@given(st.binary(max_size=80))
def test_any_target_is_split_or_refused_by_value_error(target: bytes) -> None:
    try:
        Doors().find(Request(b"GET", target, {}, REMOTE, True))
    except ValueError:
        pass


def test_too_many_query_fields_are_refused() -> None:
    with pytest.raises(ValueError, match="fields"):
        _ = request(target="/x?" + "&".join(f"a{i}=1" for i in range(300))).query


def page(name: str) -> Page:
    return Page(lambda _request: Reply(200, (name.encode(),)))


@pytest.fixture
def doors() -> Doors:
    table = Doors()
    for method, path in (("GET", "/a"), ("POST", "/a"), ("GET", "/services/*"), ("GET", "/services/deep/*")):
        table.add(method, path, page(f"{method} {path}"))
    table.add("PUT", "/import", OnThread(lambda _request, _stream: None))
    table.add("GET", "/export", OnThread(lambda _request, _stream: None))
    return table


def served_by(doors: Doors, method: str, target: str) -> str | None:
    door = doors.find(request(method, target))
    if not isinstance(door, Page):
        return None
    reply = door.handle(request())
    assert isinstance(reply, Reply)
    return reply.body[0].decode()


def test_method_and_path_choose_the_door(doors: Doors) -> None:
    assert served_by(doors, "GET", "/a") == "GET /a"
    assert served_by(doors, "POST", "/a?x=1") == "POST /a"
    assert served_by(doors, "GET", "/%61") == "GET /a"
    assert served_by(doors, "GET", "http://host/a") == "GET /a"
    assert served_by(doors, "PUT", "/a") is None
    assert served_by(doors, "GET", "/b") is None


def test_below_a_path_the_nearest_door_serves(doors: Doors) -> None:
    assert served_by(doors, "GET", "/services/x/y") == "GET /services/*"
    assert served_by(doors, "GET", "/services/deep/y") == "GET /services/deep/*"
    assert served_by(doors, "GET", "/services") is None


def test_head_goes_to_pages_alone(doors: Doors) -> None:
    assert served_by(doors, "HEAD", "/a") == "GET /a"
    assert doors.find(request("HEAD", "/export")) is None


def test_a_path_is_served_once(doors: Doors) -> None:
    with pytest.raises(ValueError, match="twice"):
        doors.add("GET", "/a", page("again"))


def basic(user: str, password: str) -> str:
    return "Basic " + b64encode(f"{user}:{password}".encode()).decode()


def test_a_session_comes_from_the_query_or_a_cookie() -> None:
    assert credentials(request(target="/x?session_id=OpaqueRef:1")).session == "OpaqueRef:1"
    assert credentials(request(cookie="a=b; session_id=OpaqueRef%3A2")).session == "OpaqueRef:2"
    both = request(target="/x?session_id=OpaqueRef:1", cookie="session_id=OpaqueRef:2")
    assert credentials(both).session == "OpaqueRef:1"


def test_name_and_password_come_from_basic_authentication() -> None:
    found = credentials(request(authorization=basic("root", "a:b é")))
    assert (found.username, found.password) == ("root", "a:b é")


@pytest.mark.parametrize("value", ["Basic", "Basic ***", "Basic /w==", "Bearer abc", ""])
def test_unreadable_authentication_is_none(value: str) -> None:
    assert not credentials(request(authorization=value)).given


def test_the_unix_socket_is_a_credential() -> None:
    assert credentials(request(source=Origin(True, "", False, ""))).given
    assert not Credentials(REMOTE).given


@pytest.mark.parametrize(
    "headers",
    [{"origin": "https://evil.example"}, {"sec_fetch_site": "cross-site"}, {"origin": "null"}],
)
def test_what_a_browser_adds_to_another_sites_request_does_not_count(headers: dict[str, str]) -> None:
    found = credentials(
        request(
            target="/console?uuid=1",
            host="host1",
            cookie="session_id=OpaqueRef:1; pool_secret=s",
            authorization=basic("root", "p"),
            **headers,
        )
    )
    assert not found.given


def test_a_page_of_this_host_and_a_session_in_the_query_do_count() -> None:
    same = request(host="host1:8443", origin="https://host1:8443", cookie="session_id=OpaqueRef:1")
    assert credentials(same).session == "OpaqueRef:1"
    named = request(target="/x?session_id=OpaqueRef:1", host="host1", origin="https://evil.example")
    assert credentials(named).session == "OpaqueRef:1"


PLAIN = Origin(False, "192.0.2.1", False, "")


def test_a_plain_get_without_a_door_is_sent_to_https(doors: Doors) -> None:
    reply = reply_to_missing(request("GET", "/x?y=1", PLAIN, host="host1:80"), doors, 443, "192.0.2.9")
    assert (reply.status, dict(reply.headers)["Location"]) == (301, "https://host1/x?y=1")
    reply = reply_to_missing(request("GET", "/x", PLAIN, host="host1"), doors, 8443, "192.0.2.9")
    assert dict(reply.headers)["Location"] == "https://host1:8443/x"


def test_an_absolute_target_is_sent_on_without_what_no_header_may_hold(doors: Doors) -> None:
    reply = reply_to_missing(
        request("GET", "http://h/a%0d%0aSet-Cookie: b%ff", PLAIN, host="h"), doors, 443, "h"
    )
    location = dict(reply.headers)["Location"]
    assert location == "https://h/a%0D%0ASet-Cookie%3A%20b%EF%BF%BD"


@pytest.mark.parametrize("host", ["evil/../", "a b", "", "user@host"])
def test_an_odd_host_is_not_sent_back(doors: Doors, host: str) -> None:
    reply = reply_to_missing(request("GET", "/x", PLAIN, host=host), doors, 443, "2001:db8::1")
    assert dict(reply.headers)["Location"] == "https://[2001:db8::1]/x"


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_what_carries_a_body_is_never_sent_on(doors: Doors, method: str) -> None:
    assert reply_to_missing(request(method, "/x", PLAIN, host="h"), doors, 443, "h").status == 404


def test_a_known_path_with_another_method_names_the_right_ones(doors: Doors) -> None:
    reply = reply_to_missing(request("DELETE", "/a"), doors, 443, "h")
    assert (reply.status, dict(reply.headers)["Allow"]) == (405, "GET, POST")


def test_a_browsers_preflight_is_answered(doors: Doors) -> None:
    reply = reply_to_missing(request("OPTIONS", "/a", origin="https://x"), doors, 443, "h")
    headers = dict(reply.headers)
    assert reply.status == 200
    assert "POST" in headers["Access-Control-Allow-Methods"]
    assert "Content-Type" in headers["Access-Control-Allow-Headers"]
    assert "Access-Control-Allow-Credentials" not in headers


def text_of(asked: Request, reply: Reply) -> bytes:
    return b"".join(reply_bytes(asked, reply, sum(map(len, reply.body)), b"Date: now\r\n"))


def test_a_reply_is_written_in_one_part_unless_it_is_large() -> None:
    small = reply_bytes(request(), Reply(200, (b"a", b"b")), 2, b"Date: now\r\n")
    assert small == (
        b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 2\r\nDate: now\r\n\r\nab",
    )
    large = b"x" * (1 << 20)
    assert reply_bytes(request(), Reply(200, (large,)), len(large), b"")[1] is large


def test_head_gets_the_headers_alone() -> None:
    written = text_of(request("HEAD"), Reply(200, (b"abc",)))
    assert b"Content-Length: 3\r\n" in written
    assert written.endswith(b"\r\n\r\n")


def test_content_types_are_exactly_those_that_clients_compare() -> None:
    written = text_of(request(), Reply(200, (b"{}",), b"application/json"))
    assert b"\r\nContent-Type: application/json\r\n" in written


def test_another_sites_page_may_read_replies_without_credentials() -> None:
    assert b"Access-Control-Allow-Origin: *\r\n" in text_of(request(origin="https://x"), Reply())


@pytest.mark.parametrize(
    ("code", "status"),
    [("SESSION_INVALID", 401), ("RBAC_PERMISSION_DENIED", 403), ("HANDLE_INVALID", 404), ("SR_FULL", 500)],
)
def test_xenapis_errors_have_a_status(code: str, status: int) -> None:
    reply = failure_page(code, ("<b>",))
    assert reply.status == status
    assert b"<b>" not in reply.body[0]
    assert ("WWW-Authenticate" in dict(reply.headers)) == (status == 401)


def test_an_error_page_shows_its_reason_as_text() -> None:
    assert b"&lt;script>" in error_page(400, "<script>").body[0]

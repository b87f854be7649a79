"""What other_config:install-repository may say, and what is made of it."""

from __future__ import annotations

import pytest

from kronos.boot.eliloader.refusal import InstallFailed
from kronos.boot.eliloader.source import parse


@pytest.mark.parametrize(
    ("written", "url"),
    [
        ("http://mirror.example/debian", "http://mirror.example/debian/a%20b"),
        ("http://mirror.example:8080/debian/", "http://mirror.example:8080/debian/a%20b"),
        ("https://[2001:db8::1]/el", "https://[2001:db8::1]/el/a%20b"),
        ("ftp://mirror.example", "ftp://mirror.example/a%20b"),
        ("nfs://server/export/tree", "nfs://server/export/tree/a%20b"),
        ("nfs:server:/export/tree", "nfs://server/export/tree/a%20b"),
        ("nfs:[2001:db8::1]:/export", "nfs://[2001:db8::1]/export/a%20b"),
    ],
)
def test_a_file_of_the_repository_has_an_address(written: str, url: str) -> None:
    assert parse(written).url("a b") == url


def test_the_distributions_installer_is_told_what_the_user_wrote() -> None:
    assert parse("nfs:server:/export").written == "nfs:server:/export/"
    assert parse(" http://user:secret@mirror/el ").written == "http://user:secret@mirror/el/"


def test_user_and_password_are_used_and_not_shown() -> None:
    source = parse("http://us%40er:sec%2Fret@mirror.example/el")
    assert (source.user, source.password) == ("us@er", "sec/ret")
    assert source.url("x") == "http://mirror.example/el/x"


def test_a_path_keeps_its_escapes_for_the_web_and_loses_them_for_a_file_server() -> None:
    source = parse("ftp://mirror/a%20b")
    assert source.url("c") == "ftp://mirror/a%20b/c"
    assert source.plain_path("c") == "/a b/c"


@pytest.mark.parametrize(
    "written",
    [
        "mirror.example/debian",
        "file:///etc",
        "gopher://mirror/",
        "http:///debian",
        "http://mirror/debian?x=1",
        "http://mirror/debian#x",
        "http://mirror:port/",
        "http://mirror/a/../b",
        "http://mirror/%2e%2e/b",
        "http://mirror/a b",
        "http://mirror/\x00",
        "http://us%0aer@mirror/",
        "nfs:server:relative",
        "http://[::1/",
    ],
)
def test_anything_else_is_refused(written: str) -> None:
    with pytest.raises(InstallFailed) as caught:
        parse(written)
    assert caught.value.code == "UNSUPPORTED_INSTALL_METHOD"


def test_a_refusal_does_not_repeat_a_password() -> None:
    with pytest.raises(InstallFailed) as caught:
        parse("http://user:secret@mirror/?x")
    assert "secret" not in caught.value.lines

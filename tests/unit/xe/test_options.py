"""Where the client takes the server and the login from."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kronos.xe import options


def read(*words: str, extra: str = "", home: str = "/nonexistent") -> options.Options:
    return options.read(words, {b"XE_EXTRA_ARGS": extra.encode(), b"HOME": home.encode()})


def test_without_options_the_server_is_this_host():
    found = read("vm-list")
    assert (found.server, found.local, found.tls, found.port) == ("127.0.0.1", True, False, 80)


def test_a_remote_server_is_reached_over_tls():
    found = read("vm-list", "-s", "alpha")
    assert (found.server, found.tls, found.port) == ("alpha", True, 443)


def test_tls_can_be_declined():
    found = read("vm-list", "-s", "alpha", "--nossl")
    assert (found.tls, found.port) == (False, 80)


@pytest.mark.parametrize(
    "words",
    [
        ("-s", "a", "-p", "8443", "-u", "me", "-pw", "x"),
        ("server=a", "port=8443", "username=me", "password=x"),
    ],
)
def test_options_have_a_short_and_a_named_form(words):
    found = read("vm-list", *words)
    assert (found.server, found.port, found.words) == ("a", 8443, ["vm-list"])
    assert (found.known["username"], found.known["password"]) == ("me", "x")


@pytest.mark.parametrize("port", ["x", "-1", "70000"])
def test_a_port_is_a_number(port):
    with pytest.raises(options.Usage):
        _ = read("vm-list", "-p", port).port


def test_the_command_line_outweighs_the_environment_and_that_the_file(tmp_path):
    (tmp_path / ".xe").write_text("username=file\npassword=file\nserver=file\n# comment=1\n")
    found = read("vm-list", "-u", "typed", extra="username=extra,password=extra", home=str(tmp_path))
    assert found.known == {"username": "typed", "password": "extra", "server": "file"}


def test_words_of_the_environment_follow_those_typed():
    assert read("vm-list", "a=1", extra="b=2,--minimal").words == ["vm-list", "a=1", "b=2", "--minimal"]


def test_what_looks_like_an_option_within_a_name_is_the_commands_own():
    words = ["sr-create", "device-config:server=filer", "tcp-port=1"]
    assert read(*words).words == words


@pytest.mark.parametrize("words", [(), ("--help",), ("vm-list", "-help")])
def test_help_and_nothing_at_all_show_the_usage(words):
    with pytest.raises(options.Usage) as shown:
        read(*words)
    assert not shown.value.args


@given(st.lists(st.text(min_size=1)))
def test_words_of_the_environment_may_hold_any_letter(words):
    text = ",".join(word.replace("\\", "\\\\").replace(",", "\\,") for word in words)
    assert options.extra_arguments(text) == words


def test_a_password_file_needs_two_lines(tmp_path):
    path = tmp_path / "pw"
    path.write_text("root\n")
    with pytest.raises(options.Usage):
        options.login_file(str(path))
    with pytest.raises(options.Usage):
        options.login_file(str(tmp_path / "none"))

"""The commands that are one call each, held against the contract: right message, right number and types."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from kronos import commands
from kronos.commands import call, engine, facts
from kronos.commands.calls import CALLS
from kronos.commands.protocol import NULL
from kronos.datamodel.model import model

_SAMPLES = {
    "int": "7",
    "float": "1.5",
    "bool": "true",
    "bytes": "2MiB",
    "file": "/tmp/file",
    "base": "/tmp/file",
}


def _typed(argument: str, api) -> list[str]:
    """What a user would type for one argument of a line."""
    found = call._ARGUMENT.match(argument)
    if found is None:
        return []
    kind, name = found["type"], found["name"]
    if name == "purpose":
        return ["purpose=licensing"]
    if kind == "enum":
        return [f"{name}={argument.split('|')[1].lower()}"]
    if kind in ("map", "args", "keys"):
        return [f"{name}:key=value"]
    if kind == "options":
        return ["http_proxy=proxy"]
    if kind in model().classes:
        ref = next(iter(api.objects.get(kind, {})), None) or api.add(kind)
        return [f"{name}={api.objects[kind][ref]['uuid']}"]
    return [f"{name}={_SAMPLES.get(kind, 'text')}"]


@pytest.mark.parametrize("name", sorted(CALLS))
def test_each_line_makes_the_call_it_names(xe, api, name):
    line = call.parse(name)
    xe.terminal.files["/tmp/file"] = b"content"
    words = [word for argument in line.arguments for word in _typed(argument.text, api)]
    selector = next((arg.selector for arg in line.arguments if arg.selector), None)
    if selector and selector[1] == "VM":
        api.add("VM", name_label="chosen")
        words.append("vm=chosen")
    elif selector and selector[1] == "host":
        words += ["host=alpha", "uuid=host-1"]
    elif selector:
        words.append("sr=Local storage")
    if line.api_class == "pool":
        words.append("uuid=pool-1")
    created = api.add(line.api_class)
    result = model().messages[line.message].result
    if result.spec == f"{line.api_class} ref" and not line.message.endswith(".create"):
        api.answers[line.message] = lambda *_: created
    if line.message.endswith(".create"):
        api.answers[line.message] = lambda *_: created
    xe(name, *dict.fromkeys(words), "--force")
    assert xe.status == 0, xe.err
    assert api.called(line.message)


def test_optional_parameters_take_their_defaults(xe, api):
    api.answers["network.create"] = lambda record: api.add("network", **record)
    xe("network-create", "name-label=lan")
    (made,) = api.called("network.create")[0]
    assert (made["MTU"], made["managed"], made["name_description"]) == (1500, True, "")


def test_an_optional_object_is_null(xe, api):
    xe("host-evacuate")
    host = next(iter(api.objects["host"]))
    assert api.called("host.evacuate") == [(host, NULL, 0)]


def test_a_dangerous_command_needs_force(xe, api):
    api.add("VDI")
    xe("vdi-unlock", "uuid=VDI-1")
    assert "must be forced (use --force)" in xe.err
    assert not api.called("VDI.force_unlock")


def test_a_plugin_gets_its_arguments_and_files_as_arguments(xe, api):
    xe.terminal.files["/tmp/key"] = b"secret"
    api.answers["host.call_plugin"] = lambda *_: "answer"
    words = ("host-uuid=host-1", "plugin=p", "fn=f", "args:a=1", "args:k:file=/tmp/key")
    assert xe("host-call-plugin", *words) == "answer\n"
    host = next(iter(api.objects["host"]))
    assert api.called("host.call_plugin") == [(host, "p", "f", {"a": "1", "k": "secret"})]


def test_a_file_that_cannot_be_read_ends_the_command(xe, api):
    words = ("host-uuid=host-1", "plugin=p", "fn=f", "args:k:file=/tmp/none")
    xe("host-call-plugin", *words)
    assert xe.err == "Failed to read file /tmp/none\n"
    assert xe.status == 1
    assert not api.called("host.call_plugin")


def test_every_command_has_a_function():
    assert [name for name in facts.commands() if engine.function(name) is None] == []


def test_every_command_has_a_description():
    assert sorted(facts.descriptions()) == sorted(facts.commands())


def _literals(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    return {
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }


@pytest.mark.parametrize("path", sorted(Path(commands.__file__).parent.glob("*.py")), ids=lambda p: p.stem)
def test_every_message_named_in_the_code_is_one_of_xenapi(path):
    classes = "|".join(model().classes)
    named = {text for text in _literals(path) if re.fullmatch(rf"({classes})\.[A-Za-z]\w*", text)}
    # xe's own spellings of operations look like messages.
    named -= {"VM.start", "VM.resume", "VM.migrate"} if path.stem == "labels" else set()
    assert sorted(named - set(model().messages)) == []


def test_every_error_that_the_code_names_has_a_sentence_for_whoever_types():
    sources = Path(commands.__file__).parents[1].rglob("*.py")
    named = set().union(*map(_literals, sources)) & set(facts.error_parameters())
    assert len(named) > 200
    assert sorted(named - set(facts.sentences())) == []


def test_every_error_with_a_sentence_is_spelt_like_one():
    assert all(re.fullmatch(r"[A-Z0-9_]+", code) for code in facts.sentences())
    assert all(text.endswith((".", ":")) or "." in text for text in facts.sentences().values())

"""How commands are asked of systemd: nobody reads or changes their arguments on the way."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from kronos.system import outside
from kronos.system.outside import NoOutside, SystemdOutside
from kronos.system.power import NotTheService


def test_systemd_leaves_the_arguments_as_they_are() -> None:
    argv = SystemdOutside().command(["/etc/plugin", "costs $5 or ${HOME}", "%n"], "xapi-program-1.service")
    end = argv.index("--")
    assert argv[end + 1 :] == ["/etc/plugin", "costs $$5 or $${HOME}", "%n"]
    assert "--unit=xapi-program-1.service" in argv[:end]


def test_the_units_description_does_not_tell_the_arguments() -> None:
    argv = SystemdOutside().command(["/etc/xapi.d/plugins/tool", "OpaqueRef:secret"])
    assert "--description=xapi: tool" in argv
    assert not any("secret" in each for each in argv[: argv.index("--")])


def test_a_command_gets_its_environment() -> None:
    there = SystemdOutside().command(["/etc/plugin"], "", {"A": "b c"})
    assert "--setenv=A=b c" in there[: there.index("--")]
    said = subprocess.run(
        NoOutside().command(["sh", "-c", "echo $A"], "", {"A": "b c"}), capture_output=True, text=True
    )
    assert said.stdout == "b c\n"


def test_a_daemon_that_is_not_the_service_changes_nothing(tmp_path: Path) -> None:
    hands = NoOutside()
    for change in (
        lambda: hands.change(["true"]),
        lambda: hands.write(tmp_path / "a", "x"),
        lambda: hands.remove(tmp_path / "a"),
    ):
        with pytest.raises(NotTheService):
            change()
    assert hands.command(["echo", "$HOME"]) == ["echo", "$HOME"]
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> SystemdOutside:
    """systemd's hands, with the commands run right here."""

    def run(argv: list[str], *, stdin: str = "", timeout: float = 60.0) -> str:
        plain = [each.replace("$$", "$") for each in argv[argv.index("--") + 1 :]]
        done = subprocess.run(plain, input=stdin, capture_output=True, text=True, timeout=timeout, check=True)
        return done.stdout

    monkeypatch.setattr(outside, "run", run)
    return SystemdOutside()


def test_a_file_is_written_whole_with_its_mode(here: SystemdOutside, tmp_path: Path) -> None:
    file = tmp_path / "new folder" / "it's a file"
    here.write(file, "one\n", 0o600)
    here.write(file, "two $x\n", 0o640)

    assert file.read_text() == "two $x\n"
    assert file.stat().st_mode & 0o777 == 0o640
    assert [path.name for path in file.parent.iterdir()] == ["it's a file"]

    here.remove(file)
    here.remove(file)
    assert not file.exists()

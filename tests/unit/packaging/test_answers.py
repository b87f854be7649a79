"""debconf's answers become settings, whoever gave them: the metapackages' scripts, with debconf played by the test."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from kronos.system import settings
from kronos.system.settings import Settings

DEBIAN = Path(__file__).parents[3] / "debian"
DEBCONF = """\
db_get() {
    case $1 in
        xapi/management-interface) RET=$MANAGEMENT ;;
        xapi/local-disks) RET=$DISKS ;;
        *) return 10 ;;
    esac
}
db_set() { printf '%s = %s\\n' "$1" "$2" >>"$SET"; }
db_input() { printf '%s %s\\n' "$1" "$2" >>"$ASKED"; return 30; }
db_go() { :; }
db_stop() { :; }
"""


class Machine:
    """Where the scripts run: their paths lead into a folder, and no systemd is there, as in an installer."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.answers = root / "xapi.toml.d/50-installation.toml"
        (root / "confmodule").write_text(DEBCONF)

    def run(self, script: str, *arguments: str, management: str = "auto", disks: str = "") -> None:
        text = (DEBIAN / script).read_text()
        for there, here in (
            ("/usr/share/debconf/confmodule", self.root / "confmodule"),
            ("/etc/xapi.toml.d", self.answers.parent),
            ("/run/systemd/system", self.root / "nothing"),
            ("/boot/grub/grub.cfg", self.root / "nothing"),
        ):
            text = text.replace(there, str(here))
        environment = {
            "PATH": os.environ["PATH"],
            "DPKG_MAINTSCRIPT_PACKAGE": "xapi-kvm",
            "MANAGEMENT": management,
            "DISKS": disks,
            "SET": str(self.root / "set"),
            "ASKED": str(self.root / "asked"),
        }
        subprocess.run(["sh", "-c", text, script, *arguments], env=environment, check=True, timeout=20)

    def settings(self) -> Settings:
        return settings.read(self.root / "xapi.toml", {}, may_be_missing=True)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


@pytest.mark.parametrize(
    ("management", "disks", "wanted"),
    [
        ("auto", "", ("auto", ())),
        ("none", "/dev/sdb", ("none", ("/dev/sdb",))),
        ("eth0", "/dev/sdb, /dev/disk/by-id/ata-X_1", ("eth0", ("/dev/sdb", "/dev/disk/by-id/ata-X_1"))),
        ("", "none", ("none", ())),
        ('x"\nlog_level = "debug', '/dev/sdb" #', ("xlog_leveldebug", ("/dev/sdb",))),
    ],
)
def test_answers_are_settings(
    machine: Machine, management: str, disks: str, wanted: tuple[str, tuple[str, ...]]
) -> None:
    machine.run("xenserver-core.postinst", "configure", management=management, disks=disks)
    found = machine.settings()
    assert (found.management_interface, found.local_disks) == wanted
    assert found.log_level == Settings().log_level


def test_a_plain_package_leaves_the_network_alone() -> None:
    assert Settings().management_interface == "none"


def test_an_administrators_edit_counts_as_an_answer(machine: Machine) -> None:
    machine.run("xenserver-core.postinst", "configure")
    machine.answers.write_text('management_interface = "eth7"\nlocal_disks = ["/dev/sdb", "/dev/sdc"]\n')
    machine.run("xenserver-core.config", "configure", "0.1.0")
    assert (machine.root / "set").read_text().splitlines() == [
        "xapi/management-interface = eth7",
        "xapi/local-disks = /dev/sdb /dev/sdc",
    ]


def test_both_are_asked_of_everybody(machine: Machine) -> None:
    machine.run("xenserver-core.config", "configure")
    asked = (machine.root / "asked").read_text().splitlines()
    assert asked == ["high xapi/management-interface", "high xapi/local-disks"]
    templates = (DEBIAN / "xenserver-core.templates").read_text()
    for line in asked:
        assert f"Template: {line.split()[1]}\n" in templates


def test_both_metapackages_ask_the_same() -> None:
    for kind in ("config", "templates", "postinst", "postrm"):
        assert (DEBIAN / f"xapi-kvm.{kind}").read_text() == (DEBIAN / f"xenserver-core.{kind}").read_text()


def test_a_purge_leaves_no_answer(machine: Machine) -> None:
    machine.run("xenserver-core.postinst", "configure")
    machine.run("xenserver-core.postrm", "purge")
    assert not machine.answers.parent.exists()

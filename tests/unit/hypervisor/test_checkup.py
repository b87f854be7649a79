"""`xapi --check`: a host that has everything, and what is said when one thing is taken away."""

from __future__ import annotations

import io
import json
import shutil
import socket
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from kronos.hypervisor import checkup
from kronos.hypervisor.checkup import Result, Surroundings, libvirtd, report
from kronos.hypervisor.checkup.check import Check, Outcome, carried_out, ok
from kronos.hypervisor.checkup.surroundings import Space, Unreachable
from kronos.hypervisor.detection import Detected
from kronos.system.commands import CommandFailed
from kronos.system.settings import Settings

XEN = Detected("XEN", "This is the control domain.", None, "4.17.6-pre", ("xen-3.0-x86_64", "hvm-3.0-x86_64"))
KVM = Detected("KVM", "KVM ran a trial guest.")
QEMU = Detected("QEMU", "There is no /dev/kvm.", "There is no /dev/kvm. It is slow.")
KERNEL = "6.1.0-xen"
XL_INFO = """\
virt_caps              : pv hvm hap iommu_hap_pt_share
free_memory            : 14000
xen_commandline        : placeholder dom0_mem=2G,max:2G console=com1
"""
FILES = {
    "etc/os-release": "ID=debian\n",
    "etc/pam.d/xapi": "",
    "proc/sys/kernel/hostname": "sun\n",
    "proc/sys/kernel/osrelease": f"{KERNEL}\n",
    "proc/cpuinfo": "flags\t\t: fpu vme svm\n",
    "proc/modules": "bridge 1 0\nkvm_amd 1 0\nxen_netback 1 0\n",
    "proc/net/tcp": "  sl  local_address\n",
    f"lib/modules/{KERNEL}/modules.dep": "kernel/drivers/block/xen-blkback/xen-blkback.ko.xz:\n",
    f"lib/modules/{KERNEL}/modules.builtin": "kernel/drivers/xen/xenbus/xenbus.ko\n",
    "proc/10/cmdline": "/usr/sbin/chronyd\0-F\x001\0",
    "usr/sbin/nft": "",
    "usr/sbin/dnsmasq": "",
    "usr/bin/qemu-img": "",
    "usr/sbin/libvirtd": "",
    "usr/bin/qemu-system-x86_64": "",
    "usr/lib/x86_64-linux-gnu/libvirt/connection-driver/libvirt_driver_libxl.so": "",
    "usr/lib/x86_64-linux-gnu/libvirt/connection-driver/libvirt_driver_qemu.so": "",
    "usr/share/OVMF/OVMF_CODE.fd": "",
    "usr/bin/swtpm": "",
    "usr/bin/swtpm_setup": "",
    "dev/net/tun": "",
    # Xen's
    "proc/xen/capabilities": "control_d\n",
    "proc/11/cmdline": "/usr/lib/xen-4.17/bin/oxenstored\0",
    "proc/12/cmdline": "/usr/lib/xen-4.17/bin/xenconsoled\0",
    "proc/13/cmdline": "/usr/libexec/xen-qemu-system-i386\0-xen-domid\x000\0-xen-attach\0",
    "dev/xen/privcmd": "",
    "dev/xen/xenbus": "",
    "dev/xen/evtchn": "",
    "dev/xen/gntdev": "",
    "usr/lib/xen-4.17/bin/pygrub": "",
    "usr/libexec/xen-qemu-system-i386": "",
    "etc/xen/scripts/vif-bridge": "",
}


class Host:
    """A host in a folder: `write`, `remove`, `commands` (what each prints) and `libvirt` are what a test changes."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.commands = {"xl": XL_INFO}
        self.libvirt: str | Unreachable = "9.0.0"
        self.space = Space(100 << 30, False)
        self.settings = Settings()
        self.as_root = True
        for name, content in FILES.items():
            self.write(name, content)
        self._store = socket.socket(socket.AF_UNIX)
        (root / "run/xenstored").mkdir(parents=True)
        self._store.bind(str(root / "run/xenstored/socket"))
        self._store.listen()

    def write(self, name: str, content: str = "") -> None:
        (self.root / name).parent.mkdir(parents=True, exist_ok=True)
        (self.root / name).write_text(content)

    def remove(self, name: str) -> None:
        path = self.root / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    def close(self) -> None:
        """No program listens at the socket of the store any more."""
        self._store.close()

    def _run(self, argv: Sequence[str], *, timeout: float) -> str:
        if argv[0] not in self.commands:
            raise CommandFailed(argv, 127, "not found")
        return self.commands[argv[0]]

    def _connect(self, uri: str) -> str:
        if isinstance(self.libvirt, Unreachable):
            raise self.libvirt
        return self.libvirt

    def examine(self, detected: Detected = XEN) -> dict[str, Result]:
        surroundings = Surroundings(
            detected,
            self.settings,
            self.root,
            as_root=self.as_root,
            run=self._run,
            connect=self._connect,
            space=lambda path: self.space,
        )
        return {result.name: result for result in checkup.examine(surroundings)}

    def troubles(self, detected: Detected = XEN) -> dict[str, str]:
        """The verdicts that are not `ok`."""
        found = self.examine(detected)
        return {name: result.verdict for name, result in found.items() if result.verdict != "ok"}


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    made = Host(tmp_path)
    yield made
    made.close()


@pytest.mark.parametrize("detected", [XEN, KVM])
def test_a_host_that_has_everything_is_well(host: Host, detected: Detected) -> None:
    assert host.troubles(detected) == {}


def test_each_check_has_a_name_of_its_own(host: Host) -> None:
    for detected in (XEN, KVM):
        names = [check.name for check in checkup.checks(Surroundings(detected, root=host.root))]
        assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("absent", "name", "verdict", "remedy"),
    [
        ("usr/sbin/libvirtd", "libvirt", "missing", "apt install libvirt-daemon-system"),
        (
            "usr/lib/x86_64-linux-gnu/libvirt/connection-driver/libvirt_driver_libxl.so",
            "libvirt's driver",
            "missing",
            "libvirt-daemon-driver-xen",
        ),
        ("dev/xen/privcmd", "Xen's files", "missing", "modprobe xen-privcmd"),
        ("proc/xen/capabilities", "/proc/xen", "warning", "xen"),
        ("proc/12", "xenconsoled", "warning", "systemctl start xen"),
        ("proc/13", "control domain's QEMU", "warning", "systemctl restart xen"),
        ("usr/libexec/xen-qemu-system-i386", "QEMU", "missing", "qemu-system-xen"),
        ("dev/xen/evtchn", "xen-evtchn", "missing", "kernel"),
        ("dev/xen/gntdev", "xen-gntdev", "missing", "kernel"),
        ("proc/modules", "xen-netback", "missing", "kernel"),
        (f"lib/modules/{KERNEL}/modules.dep", "xen-blkback", "warning", "kernel"),
        ("etc/xen/scripts/vif-bridge", "interface scripts", "missing", "xen-utils-common"),
        ("usr/sbin/nft", "tools", "missing", "nftables"),
        ("usr/bin/qemu-img", "tools", "missing", "qemu-utils"),
        ("etc/pam.d/xapi", "passwords", "warning", "/etc/pam.d/xapi"),
        ("proc/sys/kernel/hostname", "host name", "warning", "hostnamectl"),
        ("proc/10", "clock", "warning", "chrony"),
    ],
)
def test_what_a_control_domain_lacks_is_named_with_a_remedy(
    host: Host, absent: str, name: str, verdict: str, remedy: str
) -> None:
    host.remove(absent)

    found = host.examine()[name]

    assert found.verdict == verdict
    assert remedy in found.remedy


@pytest.mark.parametrize(
    ("absent", "name", "verdict", "remedy"),
    [
        ("usr/bin/qemu-system-x86_64", "QEMU", "missing", "qemu-system-x86"),
        (
            "usr/lib/x86_64-linux-gnu/libvirt/connection-driver/libvirt_driver_qemu.so",
            "libvirt's driver",
            "missing",
            "libvirt-daemon-driver-qemu",
        ),
        ("proc/modules", "KVM's modules", "warning", "kernel"),
        ("proc/cpuinfo", "KVM's modules", "warning", "AMD-V"),
        ("dev/net/tun", "taps", "missing", "modprobe tun"),
        ("usr/share/OVMF/OVMF_CODE.fd", "UEFI firmware", "warning", "ovmf"),
        ("usr/bin/swtpm_setup", "TPM", "warning", "swtpm-tools"),
    ],
)
def test_what_a_kvm_host_lacks_is_named_with_a_remedy(
    host: Host, absent: str, name: str, verdict: str, remedy: str
) -> None:
    host.remove(absent)

    found = host.examine(KVM)[name]

    assert found.verdict == verdict
    assert remedy in found.remedy


def test_emulation_is_a_warning_with_its_reason(host: Host) -> None:
    found = host.examine(QEMU)["hypervisor"]

    assert (found.verdict, found.text) == ("warning", QEMU.warning)


def test_on_fedora_the_remedies_are_fedoras(host: Host) -> None:
    host.write("etc/os-release", 'ID="rocky"\nID_LIKE="rhel centos fedora"\n')
    host.remove("usr/sbin/nft")

    assert host.examine()["tools"].remedy == "dnf install nftables"


# --- xenstored -------------------------------------------------------------------------------------------------------


def test_a_store_that_has_died_is_not_taken_for_one_by_its_socket(host: Host) -> None:
    host.close()

    found = host.examine()["xenstored"]

    assert found.verdict == "missing"
    assert "does not answer" in found.text


def test_without_socket_and_daemon_there_is_no_store(host: Host) -> None:
    host.remove("run/xenstored")
    host.remove("proc/11")

    assert host.examine()["xenstored"].verdict == "missing"


def test_a_store_in_a_domain_of_its_own_is_one(host: Host) -> None:
    host.remove("run/xenstored")
    host.remove("proc/11")
    host.commands["xenstore-read"] = "0\n"

    assert host.examine()["xenstored"].verdict == "ok"


# --- Xen itself ------------------------------------------------------------------------------------------------------


def test_tools_of_another_xen_do_not_fit(host: Host) -> None:
    (host.root / "usr/lib/xen-4.17").rename(host.root / "usr/lib/xen-4.14")

    found = host.examine()["Xen's tools"]

    assert found.verdict == "missing"
    assert "4.17" in found.text and "4.14" in found.text


@pytest.mark.parametrize(
    ("abilities", "verdict"), [("pv hvm hap", "ok"), ("pv hvm shadow", "ok"), ("pv hvm", "warning")]
)
def test_guests_with_hardware_virtualisation_need_paging_for_it(
    host: Host, abilities: str, verdict: str
) -> None:
    host.commands["xl"] = XL_INFO.replace("pv hvm hap", abilities)

    assert host.examine()["kinds of guests"].verdict == verdict


def test_without_hardware_virtualisation_pv_guests_are_left(host: Host) -> None:
    without = Detected("XEN", "control domain", None, "4.17.6", ("xen-3.0-x86_64",))

    assert "PV guests run" in host.examine(without)["kinds of guests"].text


@pytest.mark.parametrize(
    ("said", "remedy"),
    [
        (XL_INFO.replace("dom0_mem=2G,max:2G ", ""), "dom0_mem"),
        (XL_INFO.replace("14000", "60"), "Shut guests down"),
        ("", "xl info"),
    ],
)
def test_memory_that_guests_cannot_count_on_is_a_warning(host: Host, said: str, remedy: str) -> None:
    host.commands["xl"] = said

    found = host.examine()["memory"]

    assert found.verdict == "warning"
    assert remedy in found.remedy


def test_a_module_that_can_be_loaded_is_loaded_by_the_remedy(host: Host) -> None:
    host.remove("dev/xen/gntdev")
    host.write(f"lib/modules/{KERNEL}/modules.dep", "kernel/drivers/xen/xen-gntdev.ko: kernel/a.ko\n")

    assert host.examine()["xen-gntdev"].remedy == "modprobe xen-gntdev"


@pytest.mark.parametrize("name", ["xen-netback", "xen-blkback"])
def test_a_back_end_is_loaded_by_the_first_guest_that_needs_it(host: Host, name: str) -> None:
    host.write("proc/modules", "bridge 1 0\n")
    host.write(f"lib/modules/{KERNEL}/modules.dep", f"kernel/drivers/{name}.ko.xz:\n")

    assert host.examine()[name].verdict == "ok"


@pytest.mark.parametrize("program", ["/usr/sbin/xenopsd-xc", "/opt/xensource/bin/xapi"])
def test_two_toolstacks_cannot_share_a_host(host: Host, program: str) -> None:
    host.write("proc/77/cmdline", f"{program}\0-nowatchdog\0")

    found = host.examine()["other toolstacks"]

    assert found.verdict == "missing"
    assert "77" in found.text


# --- libvirt ---------------------------------------------------------------------------------------------------------


def test_a_libvirt_that_does_not_answer_is_missing_with_its_words(host: Host) -> None:
    host.libvirt = Unreachable("Failed to connect socket: No such file")

    found = host.examine()["libvirt's answer"]

    assert found.verdict == "missing"
    assert "xen:///system" in found.text and "No such file" in found.text


NO_MODEL = """\
libvirt version: 9.0.0, package: 9.0.0-4+deb12u2 (Debian)
hostname: sun
internal error: Cannot find suitable CPU model for given data
Failed to initialize host cpu features
internal error: cannot create capabilities for libxenlight
Initialization of Xen state driver failed: internal error: cannot create capabilities for libxenlight
Driver state initialization failed
"""
NO_CONTEXT = """\
libvirt version: 9.0.0, package: 9.0.0-4+deb12u2 (Debian)
hostname: sun
internal error: cannot initialize libxenlight context
Driver state initialization failed
"""


def test_a_cpu_that_libvirt_has_no_model_for_is_told_from_the_journal(host: Host) -> None:
    host.libvirt = Unreachable("Failed to connect socket")
    host.commands["journalctl"] = NO_MODEL

    found = host.examine()["libvirt's answer"]

    assert found.verdict == "missing"
    assert "CPU model" in found.text and "reset-failed" in found.remedy


def test_a_socket_where_nobody_ever_answers_is_no_libvirt(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """systemd listens for a daemon that ends whenever it is started."""
    monkeypatch.setattr(libvirtd, "PATIENCE", 0.05)
    monkeypatch.setattr(Host, "_connect", lambda self, uri: time.sleep(60))
    host.commands["journalctl"] = NO_MODEL

    found = host.examine()["libvirt's answer"]

    assert found.verdict == "missing"
    assert "CPU model" in found.text


def test_a_xen_driver_that_does_not_start_is_told_in_the_words_of_its_last_start(host: Host) -> None:
    host.libvirt = Unreachable("Failed to connect socket")
    host.commands["journalctl"] = NO_MODEL + NO_CONTEXT

    found = host.examine()["libvirt's answer"]

    assert found.verdict == "missing"
    assert "cannot initialize libxenlight context; Driver state initialization failed." in found.text
    assert "CPU model" not in found.text


def test_apparmor_without_a_rule_for_guests_sockets_is_a_warning(host: Host) -> None:
    host.write("sys/module/apparmor/parameters/enabled", "Y\n")
    host.write("etc/apparmor.d/libvirt/TEMPLATE.qemu")
    without = host.examine(KVM)["AppArmor"]
    host.write("etc/apparmor.d/local/abstractions/libvirt-qemu", without.remedy.split('"')[1])

    assert without.verdict == "warning"
    assert host.examine(KVM)["AppArmor"].verdict == "ok"


# --- common ----------------------------------------------------------------------------------------------------------


def listen(host: Host, port: int, pid: int, argv: str) -> None:
    """A process that has a TCP port."""
    line = f"   0: 00000000:{port:04X} 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 4711 1\n"
    host.write("proc/net/tcp", f"  sl  local_address\n{line}")
    host.write(f"proc/{pid}/cmdline", argv)
    (host.root / f"proc/{pid}/fd").mkdir()
    (host.root / f"proc/{pid}/fd/3").symlink_to("socket:[4711]")


def test_a_port_that_another_program_has_keeps_xapi_from_starting(host: Host) -> None:
    listen(host, 80, 55, "/usr/sbin/nginx\0")

    found = host.examine()["ports"]

    assert found.verdict == "missing"
    assert "nginx (process 55)" in found.text and "http_port" in found.remedy


def test_a_port_that_xapi_has_itself_is_well(host: Host) -> None:
    listen(host, 443, 55, "/usr/bin/python3\0/usr/bin/xapi\0")

    assert host.examine()["ports"].verdict == "ok"


def test_a_port_that_is_set_to_0_is_nobodys(host: Host) -> None:
    listen(host, 80, 55, "/usr/sbin/nginx\0")
    host.settings = Settings(http_port=0)

    assert host.examine()["ports"].verdict == "ok"


@pytest.mark.parametrize(
    ("space", "verdict"),
    [
        (Space(500 << 20, False), "warning"),
        (Space(1 << 20, False), "missing"),
        (Space(100 << 30, True), "missing"),
    ],
)
def test_the_database_needs_room(host: Host, space: Space, verdict: str) -> None:
    host.space = space

    assert host.examine()["disk space"].verdict == verdict


def test_without_roots_rights_the_rest_is_doubtful(host: Host) -> None:
    host.as_root = False

    assert host.troubles() == {"rights": "warning"}


# --- the checks themselves -------------------------------------------------------------------------------------------


def test_a_check_that_raises_is_a_warning_that_names_it(host: Host) -> None:
    def defective(surroundings: Surroundings) -> Outcome:
        raise KeyError("what it did not expect")

    found = carried_out(Check("a defect", defective), Surroundings(XEN, root=host.root))

    assert (found.name, found.verdict) == ("a defect", "warning")
    assert "what it did not expect" in found.text


def test_a_check_that_hangs_is_a_warning(host: Host) -> None:
    def hanging(surroundings: Surroundings) -> Outcome:
        time.sleep(60)
        return ok("")

    found = carried_out(Check("a hang", hanging, 0.05), Surroundings(XEN, root=host.root))

    assert (found.name, found.verdict) == ("a hang", "warning")


def test_an_empty_machine_breaks_no_check(tmp_path: Path) -> None:
    def run(argv: Sequence[str], *, timeout: float) -> str:
        raise CommandFailed(argv, 127, "")

    def connect(uri: str) -> str:
        raise Unreachable("nobody")

    for detected in (XEN, KVM, QEMU):
        there = Surroundings(detected, root=tmp_path, run=run, connect=connect)
        results = list(checkup.examine(there))
        assert [result.name for result in results if "could not be checked" in result.text] == []


RESULTS = [
    Result("one", "ok", "It is there.", ""),
    Result("two", "warning", "It is slow.", "Make it fast."),
    Result("three", "missing", "It is not there.", "Put it there."),
]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("results", "status"), [(RESULTS[:1], 0), (RESULTS[:2], 0), (RESULTS, 1)])
def test_only_what_is_missing_makes_the_status_1(results: list[Result], status: int) -> None:
    assert report.write(results, io.StringIO()) == status
    assert report.write_json(results, io.StringIO()) == status


def test_the_report_has_a_remedy_below_each_trouble() -> None:
    out = io.StringIO()
    report.write(RESULTS, out)

    assert out.getvalue().splitlines() == [
        "ok       one: It is there.",
        "warning  two: It is slow.",
        "         -> Make it fast.",
        "missing  three: It is not there.",
        "         -> Put it there.",
        "1 thing keeps guests from running; 1 warning.",
    ]


def test_colours_are_for_terminals() -> None:
    plain, terminal = io.StringIO(), Terminal()
    report.write(RESULTS, plain)
    report.write(RESULTS, terminal)

    assert "\x1b" not in plain.getvalue()
    assert "\x1b[31mmissing" in terminal.getvalue()


def test_programs_read_json() -> None:
    out = io.StringIO()
    report.write_json(RESULTS, out)

    said = json.loads(out.getvalue())
    assert said["ready"] is False
    assert said["checks"][1] == {
        "name": "two",
        "verdict": "warning",
        "text": "It is slow.",
        "remedy": "Make it fast.",
    }

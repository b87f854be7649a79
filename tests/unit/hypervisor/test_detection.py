"""Finding the hypervisor of a host, and remembering what the trial guest told."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from kronos.hypervisor import probe as probe_module
from kronos.hypervisor.detection import detect
from kronos.hypervisor.probe import IMAGE, try_guest


class Probe:
    """A trial guest whose outcome is known."""

    def __init__(self, outcome: str | None) -> None:
        self.outcome, self.runs = outcome, 0

    def __call__(self, accelerator: str) -> str | None:
        assert accelerator == "kvm"
        self.runs += 1
        return self.outcome


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A host with /dev/kvm."""
    for name, content in {
        "dev/kvm": "",
        "proc/cpuinfo": "processor\t: 0\nmodel name\t: A CPU\nflags\t\t: svm\ncpu MHz\t: 1\n\nprocessor\t: 1\n",
        "proc/sys/kernel/random/boot_id": "first-boot\n",
    }.items():
        path = tmp_path / "root" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return tmp_path / "root"


def xen(root: Path, **files: str) -> None:
    """What the kernel shows on Xen: in /sys/hypervisor, and `xenfs` in /proc/xen/capabilities."""
    shown = {
        "sys/hypervisor/type": "xen\n",
        "sys/hypervisor/version/major": "4\n",
        "sys/hypervisor/version/minor": "17\n",
        "sys/hypervisor/version/extra": ".6-pre\n",
        "sys/hypervisor/properties/capabilities": "xen-3.0-x86_64 hvm-3.0-x86_32 hvm-3.0-x86_64 \n",
        "sys/hypervisor/properties/features": files.get("features", "00000705\n"),
    }
    if "xenfs" in files:
        shown["proc/xen/capabilities"] = files["xenfs"]
    for name, content in shown.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)


@pytest.mark.parametrize(
    ("files", "proof"),
    [
        ({"xenfs": "control_d\n"}, "control_d"),
        ({"features": "00002f8f\n"}, "features"),  # xenfs is not mounted
        ({"xenfs": "", "features": "00002f8f\n"}, "features"),
    ],
)
def test_xens_control_domain_has_xen_whatever_else_it_has(
    root: Path, tmp_path: Path, files: dict[str, str], proof: str
) -> None:
    xen(root, **files)
    probe = Probe(None)

    found = detect(tmp_path / "cache", root=root, probe=probe)

    assert (found.type, found.warning, probe.runs) == ("XEN", None, 0)
    assert proof in found.reason


def test_xen_tells_its_version_and_the_guests_that_it_can_run(root: Path, tmp_path: Path) -> None:
    xen(root, xenfs="control_d\n")

    found = detect(tmp_path / "cache", root=root, probe=Probe(None))

    assert found.version == "4.17.6-pre"
    assert found.capabilities == ("xen-3.0-x86_64", "hvm-3.0-x86_32", "hvm-3.0-x86_64")


@pytest.mark.parametrize("files", [{}, {"xenfs": "\n"}, {"features": "strange"}])
def test_a_guest_of_xen_has_what_its_kvm_can_do(root: Path, tmp_path: Path, files: dict[str, str]) -> None:
    xen(root, **files)

    with_kvm = detect(tmp_path / "cache", root=root, probe=Probe(None))
    (root / "dev/kvm").unlink()
    without = detect(tmp_path / "cache", root=root, probe=Probe(None))

    assert (with_kvm.type, without.type) == ("KVM", "QEMU")
    assert "guest of Xen" in with_kvm.reason and "guest of Xen" in without.reason
    assert with_kvm.version == "" and with_kvm.capabilities == ()


def test_a_host_without_kvm_emulates_and_says_so(root: Path, tmp_path: Path) -> None:
    (root / "dev/kvm").unlink()

    found = detect(tmp_path / "cache", root=root, probe=Probe(None))

    assert found.type == "QEMU"
    assert found.warning is not None and "/dev/kvm" in found.warning


def test_kvm_that_runs_a_guest_is_kvm(root: Path, tmp_path: Path) -> None:
    found = detect(tmp_path / "cache", root=root, probe=Probe(None))

    assert (found.type, found.warning) == ("KVM", None)


def test_kvm_that_hangs_a_guest_is_not_kvm(root: Path, tmp_path: Path) -> None:
    found = detect(tmp_path / "cache", root=root, probe=Probe("a trial guest was not in ring 0"))

    assert found.type == "QEMU"
    assert "ring 0" in found.reason
    assert found.warning is not None and found.warning.startswith(found.reason)


@pytest.mark.parametrize("outcome", [None, "a trial guest did not start"])
def test_the_trial_is_not_repeated_at_a_restart(root: Path, tmp_path: Path, outcome: str | None) -> None:
    probe = Probe(outcome)
    first = detect(tmp_path / "new" / "cache", root=root, probe=probe)

    assert detect(tmp_path / "new" / "cache", root=root, probe=probe) == first
    assert probe.runs == 1


@pytest.mark.parametrize(("outcome", "runs"), [(None, 1), ("a trial guest did not start", 2)])
def test_after_a_boot_only_a_failure_is_tried_again(
    root: Path, tmp_path: Path, outcome: str | None, runs: int
) -> None:
    probe = Probe(outcome)
    detect(tmp_path / "cache", root=root, probe=probe)
    (root / "proc/sys/kernel/random/boot_id").write_text("second-boot\n")

    detect(tmp_path / "cache", root=root, probe=probe)

    assert probe.runs == runs


def test_another_cpu_is_tried_again_and_another_clock_rate_is_not(root: Path, tmp_path: Path) -> None:
    probe = Probe(None)
    cpuinfo = root / "proc/cpuinfo"
    detect(tmp_path / "cache", root=root, probe=probe)

    cpuinfo.write_text(cpuinfo.read_text().replace("cpu MHz\t: 1", "cpu MHz\t: 2"))
    detect(tmp_path / "cache", root=root, probe=probe)
    assert probe.runs == 1
    cpuinfo.write_text(cpuinfo.read_text().replace("svm", "avx"))
    detect(tmp_path / "cache", root=root, probe=probe)

    assert probe.runs == 2


@pytest.mark.parametrize("content", ["", "{", "[]", '{"key": []}', "null"])
def test_a_damaged_cache_is_made_anew(root: Path, tmp_path: Path, content: str) -> None:
    (tmp_path / "cache").write_text(content)
    probe = Probe(None)

    assert detect(tmp_path / "cache", root=root, probe=probe).type == "KVM"
    assert detect(tmp_path / "cache", root=root, probe=probe).type == "KVM"
    assert probe.runs == 1


def test_a_cache_that_cannot_be_written_changes_nothing(root: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    assert detect(tmp_path / "file" / "cache", root=root, probe=Probe(None)).type == "KVM"


def test_a_probe_is_what_its_source_says(tmp_path: Path) -> None:
    if shutil.which("as") is None or shutil.which("ld") is None:
        pytest.skip("no assembler")
    source = Path(probe_module.__file__).with_name("probe.S")
    subprocess.run(["as", "--64", source, "-o", tmp_path / "o"], check=True)
    link = ["ld", "-m", "elf_x86_64", "-Ttext", "0x100000", "-e", "0x100000", "--oformat", "binary"]
    subprocess.run([*link, tmp_path / "o", "-o", tmp_path / "image"], check=True)

    assert (tmp_path / "image").read_bytes() == IMAGE


@pytest.mark.parametrize(
    ("said", "told"),
    [("ABCDEF!\\n", None), ("ABC", "ring 0"), ("", "did not start"), ("AB\\0CDEF!", "strangely")],
)
def test_the_probe_tells_how_far_its_guest_came(tmp_path: Path, said: str, told: str | None) -> None:
    emulator = tmp_path / "qemu"
    emulator.write_text(f'#!/bin/sh\nfor last; do :; done\nprintf "{said}" > "${{last#file:}}"\nexit 1\n')
    emulator.chmod(0o755)

    outcome = try_guest("kvm", emulator=str(emulator))

    assert outcome is None if told is None else outcome is not None and told in outcome


def test_the_probe_ends_a_guest_that_hangs(tmp_path: Path) -> None:
    emulator = tmp_path / "qemu"
    emulator.write_text('#!/bin/sh\nfor last; do :; done\nprintf ABCD > "${last#file:}"\nexec sleep 60\n')
    emulator.chmod(0o755)

    outcome = try_guest("kvm", emulator=str(emulator), limit=0.3)

    assert outcome is not None and "exception" in outcome


def test_without_qemu_the_probe_says_so() -> None:
    outcome = try_guest("kvm", emulator="/nonexistent/qemu")

    assert outcome is not None and "/nonexistent/qemu" in outcome

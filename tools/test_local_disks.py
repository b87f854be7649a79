"""The SR over local disks on a host as it is installed: an emulated machine with Debian's kernel, and our packages.

What it shows no other test can: device-mapper, systemd's mounts, the service's limits. The
time of each step is printed.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from harness.stock.machine import Stock, disk
from harness.xen.machine import Broken

ROOT = Path(__file__).resolve().parents[1]
CACHE = Path("/var/cache/kronos/stock-host")
OURS = ("xapi-kvm", "xapi", "xapi-sm", "xapi-eliloader", "python3-kronos", "xapi-xe")
TEMPLATE = "Kronos tiny guest"
SIZES = (4 << 30, 6 << 30, 2 << 30)
"""Bytes of /dev/vdb, vdc and vdd."""
LEFT = (
    "pvs --noheadings -o pv_name,vg_name; ls /run/sr-mount 2>/dev/null; grep sr-mount /proc/self/mountinfo;"
    " ls /var/lib/xcp/intents; true"
)


def needs() -> list[str]:
    """What of the distribution's our packages ask for, so that the machine has it from the beginning."""
    text = re.sub(r"^#.*\n", "", (ROOT / "debian/control").read_text(), flags=re.M)
    paragraphs = {p.split("\n", 1)[0].removeprefix("Package: "): p for p in text.split("\n\n")}
    names = {"busybox-static", "fdisk"}  # the latter for what is tried on the disks
    for package in OURS:
        found = re.search(r"^Depends:((?:.*\n?)(?:[ \t].*\n?)*)", paragraphs[package], re.M)
        assert found
        for relation in found[1].split(","):
            names.add(relation.split("|")[0].split()[0])
    return sorted(
        name for name in names if name[0] != "$" and not name.startswith("xapi") and "kronos" not in name
    )


class Host:
    """A machine with our packages and three empty disks."""

    def __init__(self, packages: Path, kills: int, seed: int) -> None:
        self.packages = packages
        self.kills = kills
        self.random = random.Random(seed)
        self.directory = Path(tempfile.mkdtemp(prefix="kdisks-"))
        self.times: list[tuple[str, float]] = []
        files = [self.directory / f"disk{number}" for number in range(len(SIZES))]
        for path, size in zip(files, SIZES, strict=True):
            with path.open("wb") as file:
                file.truncate(size)
        self.machine = Stock(disk(CACHE, say, packages=needs()), disks=files)

    def close(self) -> None:
        self.machine.close()
        shutil.rmtree(self.directory, ignore_errors=True)

    @contextmanager
    def step(self, what: str) -> Iterator[None]:
        say(what)
        began = time.monotonic()
        yield
        self.times.append((what, time.monotonic() - began))

    def run(self, command: str, timeout: float = 120) -> str:
        return self.machine.run(f"export DEBIAN_FRONTEND=noninteractive; {command}", timeout).strip()

    def refused(self, command: str) -> str:
        """What a command that has to fail says."""
        return self.run(f"if {command} 2>&1; then echo 'IT WAS DONE'; fi")

    def monitor(self, command: str, **arguments: object) -> None:
        """A word to the machine's emulator."""
        with socket.socket(socket.AF_UNIX) as line:
            line.settimeout(20)
            line.connect(str(self.machine._monitor))
            stream = line.makefile("rw", encoding="utf-8")
            stream.readline()
            for each in ({"execute": "qmp_capabilities"}, {"execute": command, "arguments": arguments}):
                stream.write(json.dumps(each) + "\n")
                stream.flush()
                while True:
                    answer = json.loads(stream.readline())
                    assert "error" not in answer, answer
                    if "return" in answer:
                        break

    def ready(self) -> None:
        self.machine.until("xe host-list --minimal", 300, every=1)

    # --- the steps ---------------------------------------------------------------------------------------------------

    def install(self) -> None:
        with self.step("a machine boots"):
            self.machine.start()
        with self.step("our packages are installed"):
            self.run("mkdir -p /root/debs")
            for path in (path for name in OURS for path in self.packages.glob(f"{name}_*.deb")):
                self.machine.run(f"cat >/root/debs/{path.name}", input=path.read_bytes())
            # Where the first start would make it; these tests make theirs by hand.
            self.run(
                "mkdir -p /etc/xapi.toml.d && echo 'default_storage = false' >/etc/xapi.toml.d/50-test.toml"
            )
            self.run("dpkg -i /root/debs/*.deb", timeout=900)
            self.ready()
        say(self.run("systemctl is-active xapi; uname -r; lvm version | head -1"))

    def disks_with_data(self) -> None:
        with self.step("disks with data, or in use, are refused and not touched"):
            free = self.run("xapi --free-disks")
            assert [line.split("\t")[0] for line in free.splitlines()] == [
                "/dev/vdb",
                "/dev/vdc",
                "/dev/vdd",
            ], free
            for prepare, restore, word in DATA:
                self.run(prepare)
                before = self.run("head -c 8M /dev/vdd | sha256sum; tail -c 1M /dev/vdd | sha256sum")
                said = self.refused(
                    "xe sr-create type=ext name-label=x device-config:device=/dev/vdb,/dev/vdd"
                )
                after = self.run("head -c 8M /dev/vdd | sha256sum; tail -c 1M /dev/vdd | sha256sum")
                listed = self.run("xapi --free-disks")
                assert "SR_BACKEND_FAILURE_" in said and word in said, (prepare, said)
                assert before == after, (prepare, "it was touched")
                assert "/dev/vdd" not in listed, (prepare, listed)
                say(f"  {prepare.split(';')[0][:60]}: {' '.join(said.split())[:150]}")
                self.run(restore)
                self.run(
                    "wipefs -aq /dev/vdd; dd if=/dev/zero of=/dev/vdd bs=1M count=8 status=none; udevadm settle"
                )
            for device, word in ELSEWHERE:
                said = self.refused(f"xe sr-create type=ext name-label=x device-config:device={device}")
                assert "SR_BACKEND_FAILURE_" in said and word in said, (device, said)
            assert not self.run("xe sr-list type=ext --minimal")
            self.nothing_is_left()

    def nothing_is_left(self) -> None:
        left = self.run(LEFT)
        assert not left, f"this is left: {left}"

    def made(self, devices: str = "/dev/vdb,/dev/vdc") -> str:
        return self.run(
            f"xe sr-create type=ext name-label=Disks content-type=user device-config:device={devices}",
            timeout=300,
        )

    def spans(self) -> str:
        with self.step("xe sr-create over two disks"):
            sr = self.made()
        size = int(self.run(f"xe sr-param-get uuid={sr} param-name=physical-size"))
        assert 0.95 * sum(SIZES[:2]) < size < sum(SIZES[:2]), size
        say(self.run(f"xe sr-list uuid={sr} params=all; vgs; lvs; findmnt /run/sr-mount/{sr}"))
        unit = self.run(
            f"systemctl show -p Before,ActiveState,Options $(systemd-escape -p --suffix=mount /run/sr-mount/{sr})"
        )
        assert "libvirt-guests.service" in unit and "ActiveState=active" in unit, unit
        found = self.run("xe sr-probe type=ext device-config:device=/dev/vdb,/dev/vdc")
        assert sr in found, found
        assert "/dev/vdd" in self.run("xapi --free-disks") and "/dev/vdb" not in self.run("xapi --free-disks")
        return sr

    def guest(self, sr: str) -> str:
        with self.step("a guest boots from a disk there, and is snapshot"):
            self.machine.until(f"xe template-list name-label='{TEMPLATE}' --minimal", 600)
            pool = self.run("xe pool-list --minimal")
            self.run(f"xe pool-param-set uuid={pool} default-SR={sr}")
            vm = self.run(
                f"xe vm-install template='{TEMPLATE}' new-name-label=first sr-uuid={sr}", timeout=300
            )
            vdi = self.run(f"xe vdi-create sr-uuid={sr} name-label=data virtual-size=1GiB type=user")
            self.run(f"xe vbd-create vm-uuid={vm} vdi-uuid={vdi} device=5")
            self.run(f"xe vm-start uuid={vm}", timeout=300)
            self.runs(vm)
            self.run(f"pgrep -af qemu-system | grep -c /run/sr-mount/{sr}")
            self.run(f"xe vm-snapshot uuid={vm} new-name-label=before", timeout=300)
            self.runs(vm)
        return vm

    def runs(self, vm: str) -> None:
        self.machine.until(f"xe vm-param-get uuid={vm} param-name=power-state | grep running", 300)

    def daemon_again(self, vm: str) -> None:
        with self.step("the daemon is killed, and starts again beside the running guest"):
            before = self.run(f"xe vm-param-get uuid={vm} param-name=dom-id; pgrep -f guest=")
            self.run("systemctl kill -s KILL xapi; sleep 1; systemctl restart xapi")
            self.ready()
            assert before == self.run(f"xe vm-param-get uuid={vm} param-name=dom-id; pgrep -f guest=")
            self.attached()

    def attached(self) -> None:
        said = self.run("xe pbd-list params=currently-attached --minimal")
        assert set(said.split(",")) == {"true"}, said

    def reboots(self, vm: str) -> None:
        with self.step("the host reboots: the SR is plugged in again, and the guest starts"):
            self.machine.reboot()
            self.ready()
            self.attached()
            state = self.run(f"xe vm-param-get uuid={vm} param-name=power-state")
            if state != "running":
                self.run(f"xe vm-start uuid={vm}", timeout=300)
            self.runs(vm)
        say(
            self.run("journalctl -b -1 --no-pager | grep -iE 'sr-mount|EXT4-fs|unmount' | tail -n 12 || true")
        )

    def pulled(self, sr: str, vm: str) -> None:
        with self.step("a disk is pulled: the SR says so, and is there again with the disk"):
            self.run(f"xe vm-shutdown uuid={vm} force=true", timeout=300)
            pbd = self.run(f"xe pbd-list sr-uuid={sr} --minimal")
            self.run(f"xe pbd-unplug uuid={pbd}")
            assert not self.run("grep sr-mount /proc/self/mountinfo || true")
            self.monitor("device_del", id="more1")
            self.machine.until("test ! -e /dev/vdc && echo gone", 60, every=1)
            said = self.refused(f"xe pbd-plug uuid={pbd}")
            assert "SR_BACKEND_FAILURE_47" in said and "1 of the 2 disks" in said, said
            say("  " + " ".join(said.split()))
            self.monitor("device_add", driver="virtio-blk-pci", drive="node1", id="more1", addr="6")
            self.machine.until("lsblk -dno SIZE | grep -c 6G", 60, every=1)
            self.run(f"xe pbd-plug uuid={pbd}")
            self.run(f"xe vm-start uuid={vm}", timeout=300)
            self.runs(vm)

    def gone(self, sr: str, vm: str) -> None:
        with self.step("xe sr-destroy leaves free disks"):
            self.run(f"xe vm-shutdown uuid={vm} force=true", timeout=300)
            for snapshot in self.run("xe snapshot-list --minimal").split(","):
                self.run(f"xe snapshot-uninstall uuid={snapshot} force=true", timeout=300)
            self.run(f"xe vm-uninstall uuid={vm} force=true", timeout=300)
            # The data disk is not the VM's own.
            for vdi in self.run(f"xe vdi-list sr-uuid={sr} managed=true --minimal").split(","):
                self.run(f"xe vdi-destroy uuid={vdi}", timeout=300)
            pbd = self.run(f"xe pbd-list sr-uuid={sr} --minimal")
            self.run(f"xe pbd-unplug uuid={pbd}")
            # Somebody else's group stays.
            self.run(
                "vgcreate -q others /dev/vdd && lvcreate -qqy -n kept -l 100%FREE others && mke2fs -q /dev/others/kept"
            )
            self.run(f"xe sr-destroy uuid={sr}", timeout=300)
            assert self.run("pvs --noheadings -o pv_name,vg_name").split() == ["/dev/vdd", "others"]
            self.run("vgremove -qqy others; pvremove -q /dev/vdd; udevadm settle")
            self.nothing_is_left()
            assert len(self.run("xapi --free-disks").splitlines()) == 3

    def killed(self) -> None:
        whole = 0
        with self.step(f"the daemon is killed {self.kills} times while it makes one"):
            began = time.monotonic()
            sr = self.made()
            lasts = time.monotonic() - began
            self.run(
                f"xe pbd-unplug uuid=$(xe pbd-list sr-uuid={sr} --minimal) && xe sr-destroy uuid={sr}",
                timeout=300,
            )
            for number in range(self.kills):
                after = self.random.uniform(0, lasts)
                self.run(
                    "(xe sr-create type=ext name-label=Killed device-config:device=/dev/vdb,/dev/vdc"
                    " >/root/answer 2>/dev/null || true) & "
                    f"sleep {after:.3f}; systemctl kill -s KILL xapi; wait; systemctl restart xapi",
                    timeout=400,
                )
                self.ready()
                answer = self.run("cat /root/answer")
                sr = self.run("xe sr-list type=ext --minimal")
                assert answer in ("", sr), f"{number}: it answered {answer}, and there is {sr!r}"
                left = "a whole SR" if sr else "nothing is left"
                say(f"  {number}: killed after {after:.2f} of {lasts:.2f} s: {left}")
                if sr:
                    whole += 1
                    self.attached()
                    self.run(f"xe vdi-create sr-uuid={sr} name-label=x virtual-size=1MiB type=user")
                    self.run(f"xe vdi-destroy uuid=$(xe vdi-list sr-uuid={sr} --minimal)")
                    self.run(
                        f"xe pbd-unplug uuid=$(xe pbd-list sr-uuid={sr} --minimal) && xe sr-destroy uuid={sr}",
                        timeout=300,
                    )
                self.nothing_is_left()
        say(f"  {whole} whole, {self.kills - whole} without a trace")

    def first_start(self) -> None:
        with self.step("the first start makes it, of the disks that the settings name"):
            self.run(
                'printf \'default_storage = true\\nlocal_disks = ["/dev/vdb", "/dev/vdc"]\\n\''
                " >/etc/xapi.toml.d/50-test.toml; mkswap -q /dev/vdc; systemctl restart xapi"
            )
            self.ready()
            assert not self.run("xe sr-list --minimal"), "there is an SR"
            told = self.run("xe message-list params=name,body")
            assert "/dev/vdc has data: swap" in told, told
            self.run(
                "wipefs -aq /dev/vdc; dd if=/dev/zero of=/dev/vdc bs=1M count=1 status=none; systemctl restart xapi"
            )
            self.ready()
            sr = self.run("xe sr-list name-label='Local storage' type=ext --minimal")
            assert sr and self.run("xe pool-list params=default-SR --minimal") == sr
        with self.step("a host installed anew takes it over"):
            vdi = self.run(f"xe vdi-create sr-uuid={sr} name-label=kept virtual-size=1GiB type=user")
            self.run("systemctl stop xapi; rm -rf /var/lib/xcp/state.db*; systemctl start xapi")
            self.ready()
            assert self.run("xe sr-list name-label='Local storage' type=ext --minimal") == sr
            assert self.run(f"xe vdi-list uuid={vdi} params=name-label --minimal") == "kept"


DATA = (
    ("echo 'label: gpt' | sfdisk -q /dev/vdd", "true", "has data: gpt"),
    ("echo ',,L' | sfdisk -q /dev/vdd", "sfdisk -q --delete /dev/vdd", "/dev/vdd1"),
    ("mke2fs -q -t ext4 /dev/vdd", "true", "has data: ext4"),
    ("pvcreate -q /dev/vdd", "pvremove -q /dev/vdd", "has data: LVM2_member"),
    ("mke2fs -q -t ext4 /dev/vdd; mount -o ro /dev/vdd /mnt", "umount /mnt", "is mounted: /mnt"),
    ("mkswap -q /dev/vdd; swapon /dev/vdd", "swapoff /dev/vdd", "is mounted: [SWAP]"),
    ("dd if=/dev/urandom of=/dev/vdd bs=1M count=4 status=none", "true", "unknown kind"),
    ("blockdev --setro /dev/vdd", "blockdev --setrw /dev/vdd", "is read-only"),
    (
        "pvcreate -q /dev/vdd; vgcreate -q t /dev/vdd; lvcreate -qqy -L 1G -n v t",
        "vgremove -qqy t; pvremove -q /dev/vdd",
        "is part of /dev/mapper/t-v (lvm)",
    ),
)
"""What makes /dev/vdd one that is not free, what takes it away again, and the word by which it is refused."""
ELSEWHERE = (
    ("/dev/vda", "holds the system"),
    ("/dev/vda1", "holds the system"),
    ("$(losetup -f)", "no medium"),
    (
        "/dev/vdb,$(ln -sf /dev/vdb /dev/disk/again; echo /dev/disk/again)",
        "/dev/disk/again is /dev/vdb once more",
    ),
    ("/dev/null", "no block device"),
    ("/dev/vdz", "SR_BACKEND_FAILURE_19"),
)


def _guest(host: Host) -> None:
    sr = host.spans()
    vm = host.guest(sr)
    host.daemon_again(vm)
    host.reboots(vm)
    host.pulled(sr, vm)
    host.gone(sr, vm)


PARTS = {
    "data": Host.disks_with_data,
    "guest": _guest,
    "kills": Host.killed,
    "first-start": Host.first_start,
}


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", help=f"{', '.join(PARTS)}; all where none is named")
    parser.add_argument(
        "--packages", type=Path, metavar="FOLDER", help="built ones (otherwise they are built)"
    )
    parser.add_argument("--kills", type=int, default=20, help="how often the daemon is killed (20)")
    parser.add_argument(
        "--seed", type=int, default=random.randrange(1 << 31), help="repeats the moments of a run"
    )
    options = parser.parse_args()
    parts = options.parts or list(PARTS)
    if unknown := set(parts) - set(PARTS):
        parser.error(f"there is no part {', '.join(sorted(unknown))}")
    packages = options.packages
    if packages is None:
        subprocess.run([ROOT / "tools/deb"], check=True, timeout=900)
        packages = ROOT / "build/deb"
    say(f"seed {options.seed}")
    host = Host(packages, options.kills, options.seed)
    try:
        host.install()
        for part in parts:
            PARTS[part](host)
    except (Broken, AssertionError) as why:
        say(f"FAILED: {why}")
        say(host.run("journalctl -u xapi --no-pager | tail -n 60", timeout=60))
        return 1
    finally:
        host.close()
        for what, seconds in host.times:
            say(f"{seconds:7.1f} s  {what}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

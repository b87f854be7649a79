"""What eliloader does for each family of distributions, and what becomes of the VM's record."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kronos.boot.eliloader import plan
from kronos.boot.eliloader.refusal import InstallFailed

MIRROR = {"install-repository": "http://mirror/os"}
CD = {"install-repository": "cdrom"}
DEBIAN = {"install-distro": "debianlike", "debian-release": "squeeze"}


def places(other_config: dict[str, str]) -> list[tuple[str, str]]:
    return [(each.kernel, each.ramdisk) for each in plan.read(other_config).candidates]


def arguments(other_config: dict[str, str]) -> list[str]:
    return [each.arguments for each in plan.read(other_config).candidates]


def refusal(other_config: dict[str, str]) -> str:
    with pytest.raises(InstallFailed) as caught:
        plan.read(other_config)
    assert caught.value.code == "UNSUPPORTED_INSTALL_METHOD"
    return caught.value.params[0]


# --- places ----------------------------------------------------------------------------------------------------------


def test_an_el_tree_is_what_a_vm_installs_from_that_says_nothing_else() -> None:
    assert places(MIRROR) == [
        ("images/xen/vmlinuz", "images/xen/initrd.img"),
        ("isolinux/vmlinuz", "isolinux/initrd.img"),
        ("images/pxeboot/vmlinuz", "images/pxeboot/initrd.img"),
    ]
    assert places(MIRROR) == places(MIRROR | {"install-distro": "rhlike"}) == places(CD)


def test_suse_has_a_kernel_for_each_architecture() -> None:
    suse = MIRROR | {"install-distro": "sleslike"}
    assert places(suse)[0] == ("boot/i386/vmlinuz-xenpae", "boot/i386/initrd-xenpae")
    newer = suse | {"install-arch": "x86_64"}
    assert places(newer) == [
        ("boot/x86_64/vmlinuz-xen", "boot/x86_64/initrd-xen"),
        ("boot/x86_64/loader/linux", "boot/x86_64/loader/initrd"),
    ]


@pytest.mark.parametrize(("asked", "arch"), [("i386", "i386"), ("x86_64", "amd64"), ("amd64", "amd64")])
def test_debians_archive_has_its_installer_below_the_release(asked: str, arch: str) -> None:
    netboot = f"dists/squeeze/main/installer-{arch}/current/images/netboot"
    assert places(MIRROR | DEBIAN | {"install-arch": asked}) == [
        (f"{netboot}/xen/vmlinuz", f"{netboot}/xen/initrd.gz"),
        (f"{netboot}/debian-installer/{arch}/linux", f"{netboot}/debian-installer/{arch}/initrd.gz"),
    ]


def test_ubuntu_keeps_its_last_such_installer_apart() -> None:
    ubuntu = MIRROR | {"install-distro": "ubuntulike", "debian-release": "focal", "install-arch": "amd64"}
    found = [kernel for kernel, _ in places(ubuntu)]
    current = "dists/focal/main/installer-amd64/current"
    assert f"{current}/images/netboot/xen/vmlinuz" in found
    assert f"{current}/legacy-images/netboot/ubuntu-installer/amd64/linux" in found


def test_debians_cd_needs_no_release() -> None:
    cd = CD | {"install-distro": "debianlike"}
    assert places(cd)[:2] == [
        ("install.386/xen/vmlinuz", "install.386/xen/initrd.gz"),
        ("install.386/vmlinuz", "install.386/initrd.gz"),
    ]
    assert places(cd | {"install-arch": "amd64"})[0][0] == "install.amd/xen/vmlinuz"


def test_a_user_may_name_the_files() -> None:
    own = MIRROR | {"install-distro": "pygrub", "install-kernel": "/a/linux", "install-ramdisk": "a/initrd"}
    assert places(own) == [("a/linux", "a/initrd")]
    del own["install-ramdisk"]
    assert places(own) == [("a/linux", "")]


def test_a_cd_without_a_family_is_booted_as_its_own_configuration_says() -> None:
    wanted = plan.read(CD | {"install-distro": "pygrub"})
    assert (wanted.source, wanted.candidates, wanted.own_disk) == (None, (), False)


# --- arguments -------------------------------------------------------------------------------------------------------


def test_installers_are_told_their_repository() -> None:
    assert arguments(MIRROR)[0] == "method=http://mirror/os/ inst.repo=http://mirror/os/"
    suse = MIRROR | {"install-distro": "sleslike", "install-arch": "x86_64"}
    assert arguments(suse) == ["install=http://mirror/os/ maxcpus=1", "install=http://mirror/os/"]
    assert arguments(MIRROR | DEBIAN) == ["", ""], "Debian's asks, or reads it from its preseed file"


def test_of_a_cd_only_suse_wants_to_be_told() -> None:
    assert set(arguments(CD)) == {""}
    assert arguments(CD | {"install-distro": "sleslike"})[0] == "install=hd maxcpus=1"


def test_a_screen_over_vnc_is_asked_for_in_the_arguments() -> None:
    assert arguments(CD | {"install-vnc": "true"})[0] == "vnc"
    both = CD | {"install-vnc": "true", "install-vncpasswd": "secret"}
    assert arguments(both)[0] == "vnc vncpassword=secret"
    assert arguments(CD | {"install-vncpasswd": "secret"})[0] == ""


def test_a_password_is_one_argument_and_not_two() -> None:
    assert "one word" in refusal(CD | {"install-vnc": "true", "install-vncpasswd": "a init=/bin/sh"})


# --- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("other_config", "word"),
    [
        ({}, "install-repository"),
        ({"install-repository": " "}, "install-repository"),
        ({"install-repository": "/srv/tree"}, "install-repository"),
        (MIRROR | {"install-distro": "plan9"}, "plan9"),
        (MIRROR | {"install-distro": "debianlike"}, "debian-release"),
        (MIRROR | DEBIAN | {"debian-release": "../../etc"}, "debian-release"),
        (MIRROR | DEBIAN | {"install-arch": "m68k"}, "m68k"),
        (MIRROR | {"install-distro": "pygrub"}, "install-kernel"),
        (MIRROR | {"install-distro": "pygrub", "install-kernel": "../linux"}, "below the repository"),
    ],
)
def test_what_cannot_be_installed_is_said_in_words(other_config: dict[str, str], word: str) -> None:
    assert word in refusal(other_config)


# --- rounds ----------------------------------------------------------------------------------------------------------


def test_after_its_only_round_a_guest_boots_by_pygrub_and_forgets_that_it_was_installed() -> None:
    keys = MIRROR | DEBIAN | {"install-round": "1", "mine": "x"}
    after = plan.successor("eliloader", keys)
    assert after.PV_bootloader == "pygrub"
    assert after.other_config == MIRROR | {"debian-release": "squeeze", "mine": "x"}
    assert after.only_first_disk_bootable is False


def test_suse_has_a_second_round_from_its_own_disk() -> None:
    keys = MIRROR | {"install-distro": "sleslike", "install-arch": "x86_64"}
    after = plan.successor("/usr/bin/eliloader", keys)
    assert after.PV_bootloader == "/usr/bin/eliloader"
    assert after.other_config == keys | {"install-round": "2"}

    second = plan.read(after.other_config)
    assert (second.own_disk, second.source, second.last) == (True, None, True)
    assert [each.kernel for each in second.candidates][:2] == ["/vmlinuz-xen", "/boot/vmlinuz-xen"]

    last = plan.successor("eliloader", after.other_config)
    assert (last.PV_bootloader, "install-round" in last.other_config) == ("pygrub", False)


def test_after_an_installation_from_cd_the_first_disk_is_what_boots() -> None:
    assert plan.successor("eliloader", CD).only_first_disk_bootable
    suse = CD | {"install-distro": "sleslike"}
    assert plan.successor("eliloader", suse).only_first_disk_bootable
    assert not plan.successor("eliloader", suse | {"install-round": "2"}).only_first_disk_bootable


@given(st.dictionaries(st.sampled_from(["install-distro", "install-round", "install-repository"]), st.text()))
def test_every_installation_comes_to_its_end(other_config: dict[str, str]) -> None:
    """Whatever the keys say, a few boots later nothing is installed any more, or the loader refuses them."""
    bootloader, keys = "eliloader", other_config
    for _ in range(3):
        try:
            plan.read(keys)
        except InstallFailed:
            return
        after = plan.successor(bootloader, keys)
        bootloader, keys = after.PV_bootloader, after.other_config
        if bootloader == "pygrub":
            return
    raise AssertionError(keys)


def test_checksums_are_looked_for_where_each_family_has_them() -> None:
    assert (plan.read(MIRROR).index, plan.read(MIRROR).checksums) == (".treeinfo", "treeinfo")
    debian = plan.read(MIRROR | DEBIAN)
    assert debian.index == "dists/squeeze/main/installer-i386/current/images/SHA256SUMS"
    assert plan.read(CD).index == ""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kronos.datamodel.errors import Failure
from kronos.rules import devices


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("0", 0),
        ("15", 15),
        ("254", 254),
        ("xvda", 0),
        ("hdb", 1),
        ("sdc", 2),
        ("vdd", 3),
        ("xvdz", 25),
        ("xvdaa", 26),
    ],
)
def test_a_disk_has_one_place_whatever_it_is_called(name, number):
    assert devices.disk_number(name) == number


@pytest.mark.parametrize(
    "name", ["", "-1", "xvd", "xvda1", "XVDA", "0x1", "１", "a", "sd_", "99999", "autodetect"]
)
def test_other_names_name_no_place(name):
    assert devices.disk_number(name) is None


@given(st.integers(0, 255))
def test_every_place_has_a_name_that_names_it(number):
    assert devices.disk_number(devices.disk_name(number)) == number


@given(st.text(max_size=8))
def test_no_name_breaks_the_reader(name):
    number = devices.disk_number(name)
    assert number is None or number >= 0


def test_the_first_disk_is_xvda():
    assert [devices.disk_name(number) for number in (0, 25, 26)] == ["xvda", "xvdz", "xvdaa"]


def test_free_places_are_those_without_a_disk(world):
    vm = world.vm()
    world.vbd(vm, userdevice="0")
    world.vbd(vm, userdevice="xvdc")
    world.vbd(vm, userdevice="4", device="hdb")
    free = devices.allowed_vbd_devices(world.db, vm)
    assert free[:3] == ("3", "5", "6")
    assert free[-1] == "254"


def test_a_control_domain_has_one_place_more(world):
    vm = world.vm(is_control_domain=True)
    assert devices.allowed_vbd_devices(world.db, vm)[-1] == "255"


def test_autodetect_is_the_first_free_place(world):
    vm = world.vm()
    world.vbd(vm, userdevice="0")
    assert devices.vbd_device(world.db, vm, "autodetect") == "1"


@pytest.mark.parametrize("name", ["1", "xvdb", "hdb", "sdb", "vdb"])
def test_a_place_is_given_once_under_any_name(world, name):
    vm = world.vm()
    world.vbd(vm, userdevice="hdb")
    with pytest.raises(Failure) as caught:
        devices.vbd_device(world.db, vm, name)
    assert caught.value.description == ["DEVICE_ALREADY_EXISTS", name]


@pytest.mark.parametrize("name", ["255", "xvdzz", "nonsense", ""])
def test_a_place_that_is_none_is_refused(world, name):
    with pytest.raises(Failure) as caught:
        devices.vbd_device(world.db, world.vm(), name)
    assert caught.value.description == ["INVALID_DEVICE", name]


def test_floppy_drives_are_not_made(world):
    with pytest.raises(Failure) as caught:
        devices.vbd_device(world.db, world.vm(), "fda", "Floppy")
    assert caught.value.code == "NOT_IMPLEMENTED"


def test_a_vm_has_sixteen_interfaces_at_most(world):
    vm = world.vm()
    assert devices.allowed_vif_devices(world.db, vm) == tuple(str(number) for number in range(16))
    for number in range(16):
        world.vif(vm, device=str(number))
    assert devices.allowed_vif_devices(world.db, vm) == ()
    with pytest.raises(Failure) as caught:
        devices.vif_device(world.db, vm, "autodetect")
    assert caught.value.code == "INVALID_DEVICE"


@pytest.mark.parametrize(
    ("device", "told"),
    [
        ("0", "DEVICE_ALREADY_EXISTS"),
        ("16", "INVALID_DEVICE"),
        ("eth0", "INVALID_DEVICE"),
        ("", "INVALID_DEVICE"),
    ],
)
def test_an_interface_needs_a_free_number(world, device, told):
    vm = world.vm()
    world.vif(vm, device="0")
    with pytest.raises(Failure) as caught:
        devices.vif_device(world.db, vm, device)
    assert caught.value.description == [told, device]


def test_an_interface_takes_the_number_it_is_given_or_the_first_free_one(world):
    vm = world.vm()
    world.vif(vm, device="0")
    assert devices.vif_device(world.db, vm, "7") == "7"
    assert devices.vif_device(world.db, vm, "autodetect") == "1"

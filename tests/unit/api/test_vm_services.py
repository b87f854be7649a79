"""System VMs: what they serve, and the image that they begin with."""

from __future__ import annotations

import pytest

from kronos.api.vm import images
from kronos.boot import system_vm
from kronos.db.records import VM

SYSTEM = {"is_system_domain": "true"}


def test_a_system_vm_tells_its_services(xapi):
    said = {"service/http": "http://192.0.2.1/", "service/dns": "192.0.2.1", "ready": "yes"}
    vm = xapi.db.create(VM, power_state="Running", other_config=SYSTEM, channel_data=said)
    assert xapi("VM.query_services", vm.ref) == {"http": "http://192.0.2.1/", "dns": "192.0.2.1"}


def test_one_that_does_not_run_serves_nothing(xapi):
    vm = xapi.db.create(VM, other_config=SYSTEM, channel_data={"service/http": "http://192.0.2.1/"})
    assert xapi("VM.query_services", vm.ref) == {}


def test_another_vm_is_not_asked(xapi):
    vm = xapi.db.create(VM, power_state="Running", channel_data={"service/http": "x"})
    assert xapi.refused("VM.query_services", vm.ref) == ["NOT_SYSTEM_DOMAIN", vm.ref]


@pytest.mark.parametrize("untrusted", ["/etc/passwd", "../system-vm", "", "other"])
def test_an_image_has_a_name_and_no_path(xapi, untrusted):
    assert not images.is_asked_for(xapi.db.create(VM, other_config={"image": untrusted}))
    assert images.is_asked_for(xapi.db.create(VM, other_config={"image": system_vm.IMAGE}))

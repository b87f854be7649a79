"""Secrets, and the passwords in device_config that become some."""

from __future__ import annotations

import pytest

from kronos.datamodel.errors import Failure
from kronos.db.records import PBD, SR, Secret


@pytest.fixture
def opened(xapi, monkeypatch):
    """The device_configs that drivers are opened with; those of the test know no passwords."""
    seen, real = [], xapi.machine.open_storage

    def open_storage(kind, uuid, config):
        seen.append(dict(config))
        return real(kind, uuid, {key: value for key, value in config.items() if "password" not in key})

    monkeypatch.setattr(xapi.machine, "open_storage", open_storage)
    return seen


def sr_with_password(xapi) -> SR:
    config = {"location": str(xapi.directory / "guarded"), "chappassword": "swordfish"}
    return xapi.db.get(
        SR, xapi("SR.create", xapi.host.ref, config, 0, "guarded", "", "fake", "user", False, {}))  # fmt: skip


def test_a_secret_is_introduced_under_its_uuid_once(xapi):
    ref = xapi("secret.introduce", "11111111-2222-3333-4444-555555555555", "value", {})
    assert xapi("secret.get_by_uuid", "11111111-2222-3333-4444-555555555555") == ref
    assert xapi.refused("secret.introduce", "11111111-2222-3333-4444-555555555555", "other") == [
        "DB_UNIQUENESS_CONSTRAINT_VIOLATION", "secret", "uuid", "11111111-2222-3333-4444-555555555555"]  # fmt: skip
    assert xapi("secret.get_value", ref) == "value"


def test_a_password_is_kept_as_a_secret_and_the_driver_gets_it(xapi, opened):
    (pbd,) = (xapi.db.get(PBD, ref) for ref in sr_with_password(xapi).PBDs)
    (row,) = xapi.db.all(Secret)
    assert pbd.device_config == {"location": str(xapi.directory / "guarded"), "chappassword_secret": row.uuid}
    assert row.value == "swordfish"
    assert all(config["chappassword"] == "swordfish" for config in opened) and len(opened) == 2


def test_no_file_of_the_daemons_holds_the_password(xapi, opened, monkeypatch):
    found, declared = [], xapi.machine.intents.declared
    monkeypatch.setattr(
        xapi.machine.intents, "declared", lambda name, facts: (found.append(facts), declared(name, facts))[1]
    )
    sr_with_password(xapi)
    assert found and "swordfish" not in str(found)


def test_the_secret_goes_with_the_pbd(xapi, opened):
    (pbd,) = sr_with_password(xapi).PBDs
    xapi("PBD.unplug", pbd)
    xapi("PBD.destroy", pbd)
    assert xapi.db.all(Secret) == []


def test_one_that_another_pbd_names_too_stays(xapi, opened):
    (pbd,) = (xapi.db.get(PBD, ref) for ref in sr_with_password(xapi).PBDs)
    xapi.db.create(PBD, device_config=pbd.device_config)
    xapi("PBD.unplug", pbd.ref)
    xapi("PBD.destroy", pbd.ref)
    assert len(xapi.db.all(Secret)) == 1


def test_a_new_device_config_replaces_the_secret(xapi, opened):
    (ref,) = sr_with_password(xapi).PBDs
    xapi("PBD.unplug", ref)
    xapi("PBD.set_device_config", ref, {"location": str(xapi.directory / "guarded"), "chappassword": "trout"})
    (row,) = xapi.db.all(Secret)
    assert row.value == "trout"
    assert xapi.db.get(PBD, ref).device_config["chappassword_secret"] == row.uuid
    xapi("PBD.plug", ref)
    assert opened[-1]["chappassword"] == "trout"


def test_an_sr_that_cannot_be_made_leaves_no_secret(xapi, opened, monkeypatch):
    monkeypatch.setattr("kronos.storage.fake.FakeDriver.create", fail)
    with pytest.raises(Failure, match="SR_BACKEND_FAILURE_47"):
        sr_with_password(xapi)
    assert xapi.db.all(Secret) == []


def test_a_secret_of_the_clients_own_is_copied_and_survives(xapi, opened, monkeypatch):
    own = xapi("secret.create", {"value": "swordfish", "other_config": {}})
    uuid = xapi("secret.get_uuid", own)
    config = {"location": str(xapi.directory / "own"), "password_secret": uuid}
    call = ("SR.create", xapi.host.ref, config, 0, "", "", "fake", "user", False, {})
    with monkeypatch.context() as broken:
        broken.setattr("kronos.storage.fake.FakeDriver.create", fail)
        assert xapi.refused(*call)[0] == "SR_BACKEND_FAILURE_47"
    assert [row.ref for row in xapi.db.all(Secret)] == [own]
    sr = xapi.db.get(SR, xapi(*call))
    assert opened[-1]["password"] == "swordfish"
    (pbd,) = (xapi.db.get(PBD, ref) for ref in sr.PBDs)
    assert pbd.device_config["password_secret"] != uuid  # a copy: the client may destroy its own
    xapi("PBD.unplug", pbd.ref)
    xapi("PBD.destroy", pbd.ref)
    assert [row.ref for row in xapi.db.all(Secret)] == [own]


def test_a_pbd_has_a_copy_of_the_secret_that_it_names(xapi, opened):
    (ref,) = sr_with_password(xapi).PBDs
    own = xapi("secret.create", {"value": "trout", "other_config": {}})
    xapi("PBD.unplug", ref)
    config = {
        "location": str(xapi.directory / "guarded"),
        "chappassword_secret": xapi("secret.get_uuid", own),
    }
    xapi("PBD.set_device_config", ref, config)
    xapi("secret.destroy", own)
    xapi("PBD.plug", ref)
    assert opened[-1]["chappassword"] == "trout"
    (row,) = xapi.db.all(Secret)
    assert xapi.db.get(PBD, ref).device_config["chappassword_secret"] == row.uuid


def test_a_secret_that_is_not_there_is_named(xapi):
    config = {"location": "x", "password_secret": "nothing"}
    refused = xapi.refused("SR.create", xapi.host.ref, config, 0, "", "", "fake", "user", False, {})
    assert refused == ["UUID_INVALID", "secret", "nothing"]


def fail(*_):
    raise Failure("SR_BACKEND_FAILURE_47", "", "gone", "")

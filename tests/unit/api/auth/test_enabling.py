"""External authentication, turned on and off; subjects and their roles."""

from __future__ import annotations

import pytest

from harness.people import is_over, kept_out, login, role, subject
from kronos.db.records import Host, Secret, Subject


def test_it_is_enabled_for_the_pool_and_its_host(xapi, enabled):
    assert xapi("host.get_external_auth_type", xapi.host.ref) == "LDAP"
    assert xapi("host.get_external_auth_service_name", xapi.host.ref) == "somewhere"
    assert enabled.service == "somewhere"
    assert xapi.refused("pool.enable_external_auth", xapi.pool.ref, {}, "x", "LDAP") == [
        "POOL_AUTH_ALREADY_ENABLED",
        xapi.host.ref,
    ]
    assert xapi.refused("host.enable_external_auth", xapi.host.ref, {}, "x", "LDAP") == [
        "AUTH_ALREADY_ENABLED",
        "LDAP",
        "somewhere",
    ]


@pytest.mark.parametrize("kind", ["", "NIS", "pam"])
def test_a_kind_that_there_is_not_is_named(xapi, people, kind):
    assert xapi.refused("pool.enable_external_auth", xapi.pool.ref, {}, "x", kind) == [
        "AUTH_UNKNOWN_TYPE",
        kind,
    ]
    assert xapi.refused("host.enable_external_auth", xapi.host.ref, {}, "x", kind) == [
        "AUTH_UNKNOWN_TYPE",
        kind,
    ]


def test_a_directory_that_fails_is_not_enabled(xapi, people):
    people.failing = "_UNAVAILABLE"
    assert xapi.refused("pool.enable_external_auth", xapi.pool.ref, {"bind-password": "s"}, "x", "LDAP") == [
        "POOL_AUTH_ENABLE_FAILED_UNAVAILABLE",
        xapi.host.ref,
        "the cable is cut",
    ]
    assert xapi.refused("host.enable_external_auth", xapi.host.ref, {}, "x", "LDAP") == [
        "AUTH_ENABLE_FAILED_UNAVAILABLE",
        "the cable is cut",
    ]
    assert xapi.host.external_auth_type == ""
    assert xapi.db.all(Secret) == []


def test_of_two_hosts_both_or_none_are_enabled(xapi, people):
    other = xapi.db.create(Host, hostname="other", external_auth_type="")
    first = []

    def opened(auth_type, service, configuration):
        if first:
            people.failing = "_DOMAIN_LOOKUP_FAILED"
        first.append(1)
        return people

    xapi.machine.open_directory = opened
    refused = xapi.refused("pool.enable_external_auth", xapi.pool.ref, {}, "x", "LDAP")
    assert refused[:2] == ["POOL_AUTH_ENABLE_FAILED_DOMAIN_LOOKUP_FAILED", other.ref]
    assert (xapi.host.external_auth_type, other.external_auth_type) == ("", "")


def test_a_password_of_the_configuration_is_a_secret(xapi, people):
    config = {"base": "dc=x", "bind-password": "hush"}
    xapi("pool.enable_external_auth", xapi.pool.ref, config, "x", "LDAP")
    shown = xapi("host.get_external_auth_configuration", xapi.host.ref)
    assert "hush" not in str(shown)
    (secret,) = xapi.db.all(Secret)
    assert shown == {"base": "dc=x", "bind-password_secret": secret.uuid}
    xapi("auth.get_subject_identifier", "alice")
    assert people.configuration["bind-password"] == "hush"
    # It is changed where secrets are.
    xapi("secret.set_value", secret.ref, "another")
    xapi("auth.get_subject_identifier", "alice")
    assert people.configuration["bind-password"] == "another"
    xapi("pool.disable_external_auth", xapi.pool.ref)
    assert xapi.db.all(Secret) == []


def test_disabled_it_lets_nobody_of_the_directorys_in_and_out(xapi, enabled):
    subject(xapi, "alice", "read-only")
    session = login(xapi, "alice", "a")
    xapi("pool.disable_external_auth", xapi.pool.ref, {})
    assert is_over(xapi, session)
    assert kept_out(xapi, "alice", "a")[0] == "SESSION_AUTHENTICATION_FAILED"
    assert xapi.refused("auth.get_subject_identifier", "alice") == ["AUTH_IS_DISABLED"]
    xapi("pool.disable_external_auth", xapi.pool.ref)  # twice is once
    assert len(xapi.db.all(Subject)) == 1


def test_subjects_that_another_directory_does_not_know_go(xapi, enabled):
    alice, bob = subject(xapi, "alice"), subject(xapi, "bob")
    xapi("pool.disable_external_auth", xapi.pool.ref)
    del enabled.passwords["bob"]
    xapi("pool.enable_external_auth", xapi.pool.ref, {}, "elsewhere", "LDAP")
    assert [row.ref for row in xapi.db.all(Subject)] == [alice]
    assert bob != alice


def test_ldaps_is_not_turned_off(xapi, people):
    assert xapi.refused("host.external_auth_set_ldaps", xapi.host.ref, True) == ["AUTH_IS_DISABLED"]
    xapi("host.enable_external_auth", xapi.host.ref, {}, "x", "AD")
    xapi("pool.external_auth_set_ldaps", xapi.pool.ref, True)
    refused = xapi.refused("pool.external_auth_set_ldaps", xapi.pool.ref, False)
    assert refused[:2] == ["AUTH_SET_LDAPS_FAILED", xapi.host.ref]


def test_a_host_with_another_directory_is_told_of(xapi, enabled):
    other = xapi.db.create(Host, hostname="other")
    xapi("pool.detect_nonhomogeneous_external_auth", xapi.pool.ref)
    (told,) = xapi("message.get_all_records").values()
    assert (told["name"], told["obj_uuid"]) == ("EXTAUTH_IN_POOL_IS_NON_HOMOGENEOUS", other.uuid)
    assert "master_external_auth_type=LDAP" in told["body"]


def test_a_subject_is_what_the_directory_says_and_has_no_role(xapi, enabled):
    ref = xapi(
        "subject.create", {"subject_identifier": "id-alice", "other_config": {"subject-name": "forged"}}
    )
    record = xapi("subject.get_record", ref)
    assert record["other_config"]["subject-name"] == "alice"
    assert list(record["roles"]) == []
    assert xapi.refused("subject.create", {"subject_identifier": "id-alice"}) == ["SUBJECT_ALREADY_EXISTS"]
    assert xapi.refused("subject.create", {"subject_identifier": "id-x"}) == ["SUBJECT_CANNOT_BE_RESOLVED"]


def test_roles_are_added_once_and_removed_once(xapi, enabled):
    ref = subject(xapi, "alice", "vm-operator", "vm.pool_migrate")
    operator = role(xapi, "vm-operator")
    assert xapi.refused("subject.add_to_roles", ref, operator) == ["ROLE_ALREADY_EXISTS"]
    assert xapi.refused("subject.add_to_roles", ref, "OpaqueRef:NULL") == ["ROLE_NOT_FOUND"]
    permissions = xapi("subject.get_permissions_name_label", ref)
    assert "vm.start" in permissions and "vm.pool_migrate" in permissions
    assert "vm-operator" not in permissions and "vm.destroy" not in permissions
    xapi("subject.remove_from_roles", ref, operator)
    assert xapi("subject.get_permissions_name_label", ref) == ("vm.pool_migrate",)
    assert xapi.refused("subject.remove_from_roles", ref, operator) == ["ROLE_NOT_FOUND"]


def test_what_the_directory_is_asked(xapi, enabled):
    assert xapi("auth.get_subject_identifier", "staff") == "id-staff"
    assert xapi("auth.get_group_membership", "id-alice") == ("id-staff",)
    assert xapi("auth.get_subject_information_from_identifier", "id-bob")["subject-name"] == "bob"
    assert xapi.refused("auth.get_subject_identifier", "nobody") == ["SUBJECT_CANNOT_BE_RESOLVED"]
    enabled.failing = "_UNAVAILABLE"
    assert xapi.refused("auth.get_group_membership", "id-alice") == ["AUTH_SERVICE_ERROR", "the cable is cut"]


def test_of_a_subject_the_pools_own_word_is_given(xapi, enabled):
    subject(xapi, "alice")
    enabled.failing = "_UNAVAILABLE"
    assert xapi("auth.get_subject_information_from_identifier", "id-alice")["subject-name"] == "alice"

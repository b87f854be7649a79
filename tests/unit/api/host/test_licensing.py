"""host and pool: the one edition that there is."""

from __future__ import annotations

import base64

import pytest


@pytest.fixture
def free(xapi):
    xapi.db.write(
        xapi.host, {"edition": "free", "editions": ("free",), "license_params": {"restrict_dmc": "false"}}
    )
    return xapi


def test_the_free_edition_is_taken_and_no_other(free):
    free("host.apply_edition", free.host.ref, "free", False)
    free("pool.apply_edition", free.pool.ref, "free")
    assert free.refused("host.apply_edition", free.host.ref, "platinum", True) == [
        "INVALID_EDITION",
        "platinum",
    ]
    assert free.refused("pool.apply_edition", free.pool.ref, "platinum") == ["INVALID_EDITION", "platinum"]
    assert free("host.get_edition", free.host.ref) == "free"
    assert free("pool.get_license_state", free.pool.ref) == {"edition": "free", "expiry": "never"}


@pytest.mark.parametrize("contents", ["not base64!", base64.b64encode(b"<xe_license/>").decode()])
def test_no_licence_file_is_taken(free, contents):
    assert free.refused("host.license_add", free.host.ref, contents) == ["LICENSE_PROCESSING_ERROR"]
    free("host.license_remove", free.host.ref)


def test_a_pool_is_restricted_as_one_of_its_hosts_is(free):
    free("host.set_license_params", free.host.ref, {"restrict_dmc": "true", "expiry": "never"})
    assert free("pool.get_restrictions", free.pool.ref) == {"restrict_dmc": "true"}

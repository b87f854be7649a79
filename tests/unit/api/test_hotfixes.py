"""XenServer's hotfixes: what a database may bring of them can be read and removed, and never applied."""

from __future__ import annotations

from kronos.db.records import Host, Host_patch, Pool_patch, Pool_update


def test_a_disk_is_no_update(xapi):
    vdi = xapi.vdi(xapi.sr())
    assert xapi.refused("pool_update.introduce", vdi.ref)[0] == "INVALID_UPDATE"
    assert xapi.refused("pool_update.introduce", "OpaqueRef:none") == [
        "HANDLE_INVALID",
        "VDI",
        "OpaqueRef:none",
    ]


def test_nothing_of_them_is_applied(xapi):
    patch, update = xapi.db.create(Pool_patch), xapi.db.create(Pool_update)
    host = xapi.host.ref
    assert xapi.refused("pool_patch.apply", patch.ref, host)[0] == "PATCH_APPLY_FAILED"
    assert xapi.refused("pool_patch.precheck", patch.ref, host)[:2] == [
        "PATCH_PRECHECK_FAILED_UNKNOWN_ERROR", patch.ref]  # fmt: skip
    assert xapi.refused("pool_update.pool_apply", update.ref)[0] == "UPDATE_APPLY_FAILED"
    assert xapi.refused("pool_update.precheck", update.ref, host)[:2] == [
        "UPDATE_PRECHECK_FAILED_UNKNOWN_ERROR", update.ref]  # fmt: skip
    assert xapi.refused("host_patch.apply", "OpaqueRef:none")[0] == "HANDLE_INVALID"


def test_one_that_a_host_has_stays_and_others_go(xapi):
    there = xapi.db.create(Pool_update, hosts=(xapi.host.ref,))
    assert xapi.refused("pool_update.destroy", there.ref) == ["UPDATE_IS_APPLIED"]
    xapi("pool_update.resync_host", xapi.host.ref)
    xapi("pool_update.destroy", there.ref)
    patch = xapi.db.create(Pool_patch)
    place = xapi.db.create(Host_patch, pool_patch=patch.ref, host=xapi.host.ref, applied=True)
    assert xapi.refused("pool_patch.destroy", patch.ref) == ["PATCH_IS_APPLIED"]
    place.applied = False
    xapi("pool_patch.destroy", patch.ref)
    rows = (xapi.db.all(kind) for kind in (Pool_update, Pool_patch, Host_patch))
    assert not any(rows) and len(xapi.db.all(Host)) == 1

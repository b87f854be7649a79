from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from kronos.boot.kernel_modules import MissingModule, closure, indexes

Make = Callable[..., Path]


def test_a_module_comes_after_all_that_it_depends_on(module_tree: Make) -> None:
    tree = module_tree(
        {
            "virtio_net.ko": {"depends": ["net_failover,virtio"]},
            "net-failover.ko": {"depends": ["failover"]},
            "failover.ko": {"depends": [""]},
            "virtio.ko": {},
            "unrelated.ko": {},
        }
    )
    assert [module.name for module in closure(tree, ["virtio_net"])] == [
        "failover",
        "net_failover",
        "virtio",
        "virtio_net",
    ]


def test_packed_modules_are_unpacked(module_tree: Make) -> None:
    tree = module_tree({"button.ko.xz": {"alias": ["acpi*:LNXPWRBN:*"]}})
    (module,) = closure(tree, ["button"])
    assert module.content.startswith(b"\x7fELF")
    assert module.aliases == ("acpi*:LNXPWRBN:*",)


def test_what_is_built_in_is_left_out(module_tree: Make) -> None:
    tree = module_tree(
        {"ext4.ko": {"depends": ["jbd2"]}}, built_in="kernel/fs/jbd2/jbd2.ko\nkernel/drivers/virtio-blk.ko\n"
    )
    assert [module.name for module in closure(tree, ["ext4", "virtio_blk"])] == ["ext4"]


def test_a_required_module_that_is_nowhere_is_an_error(module_tree: Make) -> None:
    with pytest.raises(MissingModule, match="virtio_blk"):
        closure(module_tree({}), ["virtio_blk"])


def test_a_wanted_module_that_is_nowhere_is_done_without(module_tree: Make) -> None:
    assert closure(module_tree({}), [], ["e1000"]) == []


def test_the_indexes_tell_modprobe_what_a_device_wants_and_in_which_order(module_tree: Make) -> None:
    tree = module_tree(
        {
            "virtio_net.ko": {"depends": ["net-failover"], "alias": ["virtio:d00000001v*"]},
            "net-failover.ko": {"depends": ["failover"]},
            "failover.ko": {},
        }
    )
    index = indexes(closure(tree, ["virtio_net"]))
    # modprobe loads a line's modules from right to left.
    assert index["modules.dep"].splitlines() == [
        "failover.ko:",
        "net_failover.ko: failover.ko",
        "virtio_net.ko: net_failover.ko failover.ko",
    ]
    assert index["modules.alias"] == "alias virtio:d00000001v* virtio_net\n"

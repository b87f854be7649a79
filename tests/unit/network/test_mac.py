"""MAC addresses: the seed's rule, random ones, and what is refused."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kronos.datamodel.errors import Failure
from kronos.network import mac

KNOWN = ["fe:4c:0f:30:75:c6", "ee:ce:60:c9:09:aa", "e6:71:a7:02:eb:55"]
SEED = "b4a1b1d3-6d6a-4b0a-9d8e-0c5d2f7a1e42"


def test_the_first_vif_hashes_its_seed_once() -> None:
    first = hashlib.md5(SEED.encode()).digest()
    second = hashlib.md5(first).digest()
    octets = [first[0] & 0xFE | 2, first[1], first[2], first[3], second[1], second[2]]
    assert mac.mac_of_seed(SEED, 0) == ":".join(f"{octet:02x}" for octet in octets)


def test_addresses_of_a_known_seed_never_change() -> None:
    assert [mac.mac_of_seed("seed", device) for device in (0, 1, 7)] == KNOWN


def test_each_next_vif_hashes_twice_more() -> None:
    digest = SEED.encode()
    for device in range(8):
        digest = hashlib.md5(digest).digest()
        assert mac.mac_of_seed(SEED, device)[3:11] == digest[1:4].hex(":")
        digest = hashlib.md5(digest).digest()


@given(st.text(max_size=40), st.integers(0, 40))
def test_every_seed_gives_addresses_that_pass_the_check_and_belong_to_no_vendor(
    seed: str, device: int
) -> None:
    address = mac.mac_of_seed(seed, device)
    assert mac.check(address) == address
    assert int(address[:2], 16) & 3 == 2


def test_random_addresses_are_local_unicast_and_differ() -> None:
    addresses = {mac.random_mac() for _ in range(100)}
    assert len(addresses) == 100
    assert all(int(mac.check(address)[:2], 16) & 3 == 2 for address in addresses)


def test_an_address_comes_back_in_lower_case() -> None:
    assert mac.check("02:AB:cd:00:00:1F") == "02:ab:cd:00:00:1f"


@pytest.mark.parametrize(
    "untrusted",
    ["", "02:00:00:00:00", "02-00-00-00-00-01", "02:00:00:00:00:01\n", "02:00:00:00:00:0g", "0200.0000.0001",
     "01:00:5e:00:00:01", "ff:ff:ff:ff:ff:ff", "00:00:00:00:00:00", "02:00:00:00:00:01:02", "02:00:00:00:00:٠٠"],
)  # fmt: skip
def test_what_no_nic_can_have_is_refused_as_it_came(untrusted: str) -> None:
    with pytest.raises(Failure) as caught:
        mac.check(untrusted)
    assert caught.value.description == ["MAC_INVALID", untrusted]

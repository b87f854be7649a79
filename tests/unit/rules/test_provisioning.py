from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kronos.datamodel.errors import Failure
from kronos.rules import provisioning
from kronos.rules.provisioning import ProvisionedDisk, parse, render

# What XML can carry: the reader never sees anything else, as records are cut at the first other character.
text = st.text(st.characters(min_codepoint=0x20, max_codepoint=0xD7FF), max_size=40)
disks = st.lists(
    st.builds(
        ProvisionedDisk,
        device=text,
        size=st.integers(0, 10**18 - 1),
        sr=text,
        bootable=st.booleans(),
        type=st.sampled_from(provisioning.TYPES),
    ),
    max_size=5,
)


def test_the_disks_of_a_template():
    document = (
        '<provision><disk device="0" size="10737418240" sr="" bootable="true" type="system"/>'
        '<disk bootable="false" device="1" size="1" sr="U"/></provision>'
    )
    assert parse(document) == [
        ProvisionedDisk("0", 10737418240, "", True, "system"),
        ProvisionedDisk("1", 1, "U", False, "system"),
    ]


@given(disks)
def test_what_is_written_is_read_back(written):
    assert parse(render(written)) == written


def test_a_type_that_is_unknown_is_system():
    assert (
        parse('<provision><disk device="0" size="1" sr="" bootable="true" type="odd"/></provision>')[0].type
        == "system"
    )


BOMB = '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;">]><provision>&b;</provision>'
DISK = '<disk device="0" size="1" sr="" bootable="true"/>'


@pytest.mark.parametrize(
    "document",
    [
        "",
        "<provision>",
        "not xml",
        BOMB,
        '<!DOCTYPE provision SYSTEM "file:///etc/passwd"><provision/>',
        "<other/>",
        f"<provision>{DISK}</provision><provision/>",
        f"<provision><deep>{DISK}</deep></provision>",
        f"<provision><disk device='0' size='1' sr='' bootable='true'>{DISK}</disk></provision>",
        "<provision><disk/></provision>",
        '<provision><disk device="0" size="1G" sr="" bootable="true"/></provision>',
        '<provision><disk device="0" size="-1" sr="" bootable="true"/></provision>',
        f"<provision>{DISK * 257}</provision>",
        f"<provision>{' ' * 70000}</provision>",
        "<provision>&unknown;</provision>",
        "<provision>\0</provision>",
        "<provision>\ud800</provision>",
    ],
)
def test_any_other_document_is_refused(document):
    with pytest.raises(Failure) as caught:
        parse(document)
    assert caught.value.description[:2] == ["INVALID_VALUE", "other_config:disks"]


@given(st.text(max_size=60))
def test_no_document_breaks_the_reader(document):
    try:
        parse(document)
    except Failure as failure:
        assert failure.code == "INVALID_VALUE"

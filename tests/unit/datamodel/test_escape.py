"""Text in XML: the quick way to see that there is nothing to do must never overlook something."""

from __future__ import annotations

import re
import sys

import pytest

from kronos.datamodel.types import escape

# XML 1.0, production 2.
LEGAL = re.compile("[\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def test_every_character_is_written_or_left_out_as_xml_wants_it():
    special = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "\r": "&#13;"}
    for code in range(sys.maxunicode + 1):
        letter = chr(code)
        wanted = special.get(letter, letter if LEGAL.fullmatch(letter) else "")
        assert escape(letter) == wanted, hex(code)


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("", ""),
        ("plain text, Grüße, 漢字", "plain text, Grüße, 漢字"),
        ("a & b < c > d\r\n\t", "a &amp; b &lt; c &gt; d&#13;\n\t"),
        ("a\x00b\x0bc\ud800d\ufffee\x7f", "abcde\x7f"),
    ],
)
def test_text_is_escaped_where_it_must_be(text, written):
    assert escape(text) == written

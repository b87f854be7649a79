"""Record blocks and --minimal."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kronos.commands.output import Printer, escape, layout

_NAMES = st.text(alphabet="abcdefgh-() ROW", min_size=1)


def test_colons_stand_below_each_other():
    assert layout([("uuid ( RO)", "1"), ("name ( RW)", "x")]) == "uuid ( RO)    : 1\n    name ( RW): x\n"


@given(st.lists(st.tuples(_NAMES, st.text(alphabet="xyz")), min_size=1))
def test_every_line_has_its_colon_four_columns_past_the_longest_name(table):
    width = max(len(name) for name, _ in table) + 4
    assert all(line[width : width + 2] == ": " for line in layout(table).splitlines())


@given(st.lists(st.text(alphabet="a,\\"), min_size=1))
def test_minimal_values_can_be_told_apart(values):
    line = ",".join(escape(value) for value in values)
    found, escaped = [""], False
    for letter in line:
        if escaped or letter not in ",\\":
            found[-1] += letter
            escaped = False
        elif letter == "\\":
            escaped = True
        else:
            found.append("")
    assert found == values


def test_minimal_leaves_out_remarks_and_records_without_fields(xe):
    terminal = xe.terminal
    printer = Printer(terminal, minimal=True)
    printer.message("for people")
    printer.remark("for people")
    printer.records([[("a", "1")], []])
    printer.lines(["1", "2"])
    printer.finish()
    assert terminal.out == ["1,2"]
    assert terminal.err == ""

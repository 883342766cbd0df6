# SPDX-License-Identifier: Apache-2.0
"""Drawing of tables."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loxicmd.table import MAX_CELL_WIDTH, draw, wrap
from tests.support import recorded_cli


def _cells_of(table: str) -> list[list[str]]:
    """Read back the cells of a table whose cells are one line each."""
    lines = table.splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[:1] + lines[2:]]


@pytest.mark.parametrize(
    "table",
    [recorded_cli.LB, recorded_cli.CT, recorded_cli.VERSION, recorded_cli.ENDPOINTS, recorded_cli.FIREWALL],
)
def test_recorded_tables_are_drawn_byte_for_byte(table: str) -> None:
    """The cells of a recorded table, drawn again, give the same table."""
    header, *rows = _cells_of(table)

    assert draw([title.lower() for title in header], rows) == table


def test_recorded_cells_wrap_at_the_same_blanks() -> None:
    """Addresses fill 30 columns, and no line below is empty."""
    table = draw(
        ("Device Name", "IP Address"),
        [
            ("elbep1             ", "31.31.31.254/24 4ffe::2/64 fe80::10a9:daff:fe8c:35b8/64"),
            ("elbep2", "32.32.32.254/24 5ffe::2/64 fe80::91:4aff:feee:2d74/64"),
        ],
    )

    assert table == recorded_cli.IP


def test_line_breaks_set_the_width_and_become_blanks() -> None:
    """The recorded interface: a trailing blank before a break leaves two blanks."""
    layer3 = "Routed: true\nIPv4 : [10.10.10.254/24 (P) ] \nIPv6 : [3ff0::2/64 (P) ]"

    assert wrap(layer3) == [
        "Routed: true IPv4 :",
        "[10.10.10.254/24 (P) ]  IPv6 :",
        "[3ff0::2/64 (P) ]",
    ]
    assert wrap("IsPVID: true\nVID : 3801") == ["IsPVID: true", "VID : 3801"]
    assert wrap("Routed: false\nIPv4 : [] \nIPv6 : []")[0] == "Routed: false"


def test_header_breaks_into_two_lines() -> None:
    """A break in a title makes the header two lines high."""
    lines = draw(("a", "isActive/bpf\nPort type"), [("1", "x")]).splitlines()

    assert lines[:3] == ["| A | ISACTIVE/BPF |", "|   |  PORT TYPE   |", "|---|--------------|"]


@pytest.mark.parametrize(
    ("text", "numeric"),
    [
        ("7", True),
        ("-1.5", True),
        ("1,000", True),
        ("12%", True),
        ("1-2", False),
        ("0:0", False),
        ("1.2.3", False),
        ("", False),
    ],
)
def test_numbers_stand_right(text: str, numeric: bool) -> None:
    """A cell that is all number is aligned right, any other left."""
    row = draw(("title",), [(text,)]).splitlines()[2]

    assert row == (f"| {text:>5} |" if numeric else f"| {text:<5} |")


@given(st.lists(st.text("ab:/\n ", max_size=60), min_size=1, max_size=4))
def test_every_line_has_the_same_width_and_no_word_is_lost(cells: list[str]) -> None:
    """A table is a rectangle, and wrapping only moves blanks."""
    lines = draw(["t"] * len(cells), [cells]).splitlines()

    assert len({len(line) for line in lines}) == 1
    for cell in cells:
        wrapped = wrap(cell)
        longest = max(map(len, cell.replace("\n", " ").split(" ")))
        assert " ".join(wrapped).split() == cell.split()
        assert max(map(len, wrapped)) <= max(MAX_CELL_WIDTH, longest)

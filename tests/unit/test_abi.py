# SPDX-License-Identifier: Apache-2.0
"""``bpf/abi.h`` and its Python view agree: the compiler compares sizes, offsets and values."""

import ctypes
import platform
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from loxilb.kernel import abi
from loxilb.kernel.bpf.adoption import fingerprint
from loxilb.kernel.bpf.work import Work
from loxilb.model import FlowState, Mode, Selection
from loxilb.model.image import FULL_SHARE, EndpointFlags

pytestmark = pytest.mark.must_run
HEADER = Path(__file__).resolve().parents[2] / "bpf" / "abi.h"
COMPILERS = [found for name in ("clang-14", "clang-19", "clang") if (found := shutil.which(name))]
LAYOUTS: dict[type[ctypes.Structure], str] = {
    abi.FlowHead: "lox_flow",
    abi.Flow4: "lox_flow4",
    abi.Flow6: "lox_flow6",
    abi.Cold: "lox_cold",
    abi.Whole4: "lox_whole4",
    abi.Key4: "lox_key4",
    abi.Key6: "lox_key6",
    abi.Listener4: "lox_listener4",
    abi.Listener6: "lox_listener6",
    abi.Rule: "lox_rule",
    abi.RingLine: "lox_ring_line",
    abi.RuleState: "lox_rule_state",
    abi.Endpoint: "lox_endpoint",
    abi.EndpointState: "lox_endpoint_state",
    abi.Local: "lox_local",
    abi.Connected: "lox_connected",
    abi.ErrandKey: "lox_errand_key",
    abi.Errand: "lox_errand",
    abi.Client: "lox_client",
    abi.Affinity: "lox_affinity",
    abi.SourceKey: "lox_source_key",
    abi.Traffic: "lox_traffic",
    abi.NextHop: "lox_next_hop",
    abi.Link: "lox_link",
    abi.FragmentKey: "lox_fragment_key",
    abi.Fragment: "lox_fragment",
    abi.Bucket: "lox_bucket",
    abi.Config: "lox_config",
    abi.Runtime: "lox_runtime",
    abi.Event: "lox_event",
    abi.Abort: "lox_abort",
    abi.Drop: "lox_drop",
}
CONSTANTS = (
    "ABI_VERSION",
    "WINDOW",
    "HALF_WINDOW",
    "QUARANTINE",
    "ONE_WAY_PACKETS",
    "FULL_SHARE",
    "SHARE_SHIFT",
    "RING_LINE",
    "REASONS",
    "STATES",
    "SERVED_BITS",
    "SERVED_FACTOR",
)
GROUPS = ("SLOT_", "FLOW_", "HOST_", "TELL_", "AT_")


def enumerators(enum: str) -> list[str]:
    """Return the names in an enum of the header."""
    body = re.search(rf"enum {enum} \{{(.*?)\}}", HEADER.read_text(), re.S)
    assert body is not None
    return re.findall(r"\b(LOX_\w+)", body[1])


def compile_with(*lines: str) -> str:
    """Compile the header and ``lines``; returns what the compiler says."""
    done = subprocess.run(
        [
            COMPILERS[0],
            *("-target", "bpf", "-fsyntax-only", "-x", "c", "-Wpadded", "-Werror"),
            *(f"-I/usr/include/{platform.machine()}-linux-gnu", f"-I{HEADER.parent}", "-"),
        ],
        input="\n".join(('#include "abi.h"', *lines)),
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert (done.returncode == 0) == (not done.stderr)
    return done.stderr


def same(expression: str, value: int) -> str:
    """Return the assertion that a constant expression has a value."""
    return f'_Static_assert({expression} == {value}, "{expression} is not {value}");'


def layout(kind: type[ctypes.Structure], name: str) -> Iterator[str]:
    """Return assertions for the size of a struct, and the place and size of each member."""
    yield same(f"sizeof(struct {name})", ctypes.sizeof(kind))
    for member in (field[0] for field in kind._fields_):
        place, c_name = getattr(kind, member), member.rstrip("_")
        yield same(f"__builtin_offsetof(struct {name}, {c_name})", place.offset)
        yield same(f"sizeof(((struct {name} *)0)->{c_name})", place.size)


def values(prefix: str, members: Iterable[tuple[str, int]]) -> Iterator[str]:
    """Return assertions for values."""
    for name, value in members:
        yield same(f"LOX_{prefix}{name}", value)


@pytest.mark.parametrize(("kind", "name"), LAYOUTS.items(), ids=LAYOUTS.values())
def test_a_layout_is_that_of_the_header(kind: type[ctypes.Structure], name: str) -> None:
    """Size, offsets, sizes of members."""
    assert not compile_with(*layout(kind, name))


def test_the_record_of_the_slow_path_is_read_where_it_is() -> None:
    """A trace reads some of its members; it is no part of the ABI."""
    members = {"rule": "rule", "reason": "reason", "rewrite": "rw", "dmac": "way.macs.dmac", "smac": "way.macs.smac"}
    members |= {"way_ifindex": "way.ifindex", "fib_ifindex": "fib.ifindex", "fib_destination": "fib.ipv6_dst"}
    places = [
        same(f"__builtin_offsetof(struct lox_work, {c})", getattr(Work, name).offset) for name, c in members.items()
    ]
    size = same("sizeof(struct lox_work)", ctypes.sizeof(Work))

    assert not compile_with('#pragma clang diagnostic ignored "-Wpadded"', '#include "work.h"', size, *places)
    assert compile_with(
        '#pragma clang diagnostic ignored "-Wpadded"', '#include "work.h"', same("sizeof(struct lox_work)", 1)
    )


def test_every_layout_is_compared() -> None:
    """Those of Python, and those of the header."""
    here = {kind for kind in vars(abi).values() if isinstance(kind, type) and issubclass(kind, ctypes.Structure)}
    there = set(re.findall(r"^struct (\w+) \{", HEADER.read_text(), re.M))

    assert here - {ctypes.Structure} == set(LAYOUTS)
    assert there == set(LAYOUTS.values())


def test_constants_have_the_values_of_the_header() -> None:
    """Plain ones, slot states and flags."""
    plain = [(name, getattr(abi, name)) for name in CONSTANTS]
    grouped = [(name, value) for name, value in vars(abi).items() if name.startswith(GROUPS)]

    assert len(grouped) >= 8
    assert not compile_with(*values("", (*plain, *grouped)))


def test_reasons_have_the_values_of_the_header() -> None:
    """All of them, and the marks between their ranges."""
    marks = {"LOX_PASS_LAST", "LOX_FORWARD_LAST", "LOX_REASONS"}

    assert set(enumerators("lox_reason")) - marks == {f"LOX_{reason.name}" for reason in abi.Reason}
    assert not compile_with(*values("", ((reason.name, reason.value) for reason in abi.Reason)))
    for reason in abi.Reason:
        ranges = {"PASS": (-1, 15), "FORWARD": (15, 31), "ANSWER": (15, 31), "DROP": (31, abi.REASONS - 1)}
        low, high = ranges[reason.name.partition("_")[0]]
        assert low < reason <= high


def test_flow_states_have_the_values_of_the_header() -> None:
    """The model shares them with the packet path."""
    assert set(enumerators("lox_flow_state")) - {"LOX_STATES"} == {f"LOX_STATE_{state.name}" for state in FlowState}
    assert not compile_with(*values("STATE_", ((state.name, state.value) for state in FlowState)))


def test_endpoint_flags_have_the_values_of_the_header() -> None:
    """The model shares them with the packet path, and what a full share is."""
    flags = [flag for flag in EndpointFlags if flag]

    assert set(enumerators("lox_endpoint_flags")) == {f"LOX_ENDPOINT_{flag.name}" for flag in flags}
    assert not compile_with(*values("ENDPOINT_", ((str(flag.name), flag.value) for flag in flags)))
    assert FULL_SHARE == abi.FULL_SHARE
    assert max(flags) < 1 << abi.SHARE_SHIFT


@pytest.mark.parametrize(
    ("enum", "prefix", "kind"), [("lox_mode", "MODE_", Mode), ("lox_select", "SELECT_", Selection)]
)
def test_what_the_header_knows_of_modes_and_selections_is_what_the_model_means(
    enum: str, prefix: str, kind: type[Mode] | type[Selection]
) -> None:
    """The header knows those that the packet path does."""
    known = {name.removeprefix(f"LOX_{prefix}") for name in enumerators(enum)}

    assert len(known) >= 3
    assert not compile_with(*values(prefix, ((name, kind[name].value) for name in known)))


def test_no_padding_goes_unnamed() -> None:
    """Two compilers would have to agree on it, and what is in it would be anything."""
    assert not compile_with(*(f'_Static_assert(sizeof(struct {name}), "laid out");' for name in LAYOUTS.values()))


def test_the_compiler_does_refuse() -> None:
    """A wrong size, a wrong offset, a wrong value, a hole."""
    for wrong in (
        same("sizeof(struct lox_flow4)", 63),
        same("__builtin_offsetof(struct lox_flow, packets)", 0),
        same("LOX_DROP_TTL", 1),
        f"struct hole {{ __u8 a; __u32 b; }}; {same('sizeof(struct hole)', 8)}",
    ):
        assert compile_with(wrong)


def test_a_changed_layout_has_a_new_version() -> None:
    """Pinned maps outlive the programs: whoever changes a layout raises LOX_ABI_VERSION and records it here."""
    recorded = {2: "db33a1fb9b1bfcf2"}

    assert recorded.get(abi.ABI_VERSION) == fingerprint().hex()

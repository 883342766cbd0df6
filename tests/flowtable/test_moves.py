# SPDX-License-Identifier: Apache-2.0
"""A flow that becomes established is counted once, whatever other CPUs do to it while it moves."""

import itertools
import os
import secrets
import struct
from collections.abc import Iterator

import pytest

from loxilb.kernel.bpf import maps
from loxilb.kernel.bpf.features import ProgramSet
from loxilb.kernel.bpf.loading import object_path
from loxilb.kernel.bpf.object import BpfObject
from loxilb.kernel.bpf.run import run
from tests.flowtable.harness import config_of, sizes_of

pytestmark = [
    pytest.mark.must_run,
    pytest.mark.skipif(os.geteuid() != 0, reason="loading BPF programs needs root"),
]
SLOTS = 4096
MISHAPS = {"none": 0, "reset": 1, "reset main": 2, "gives way": 3, "moved": 4, "dropped": 5}


@pytest.fixture(scope="module", params=list(ProgramSet), ids=lambda one: one.value)
def checks(request: pytest.FixtureRequest) -> Iterator[BpfObject]:
    """Return the programs on tables of their own."""
    path = object_path("movecheck", request.param)
    with BpfObject(path, rodata=bytes(config_of(SLOTS)), sizes=sizes_of(SLOTS, 1, 4096)) as made:
        yield made


def move(checks: BpfObject, program: str, *mishaps: str) -> tuple[int, int, int]:
    """Move a flow; returns its endpoint's live flows, whether it is one, and the live flows when all have ended."""
    plan = struct.pack("=4I", secrets.randbits(31), *(MISHAPS[one] for one in mishaps))
    maps.update(checks.maps["move_plan"], maps.index_key(0), plan, "plan")
    state = bytes(8)
    maps.update(checks.maps["endpoint_states"], maps.index_key(1), state, "reset")
    assert run(checks.programs[program], bytes(64), want_packet=False).code == 0
    value = maps.lookup(checks.maps["move_result"], maps.index_key(0), 16) or b""
    counted, live, left, half_open = struct.unpack("=iIii", value)
    assert half_open == 0
    return counted, live, left


@pytest.mark.parametrize("program", ["check_move4", "check_move6"])
@pytest.mark.parametrize("between", MISHAPS)
def test_a_flow_is_counted_once_while_it_moves(checks: BpfObject, program: str, between: str) -> None:
    """In every order with what happens before and after: one while it is live, none when it has ended.

    One that times out at that very moment lives on, but is not counted any more.
    """
    for before, after in itertools.product(MISHAPS, MISHAPS):
        counted, live, left = move(checks, program, before, between, after)

        case = f"{before}, {between}, {after}"
        assert left == 0, case
        assert counted == live or (between == "dropped" and not counted), case

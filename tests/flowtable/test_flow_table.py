# SPDX-License-Identifier: Apache-2.0
"""The flow tables are exact: no entry lost, doubled or torn, whatever several CPUs do at once."""

import os
import time

import pytest

from loxilb.kernel import abi
from loxilb.kernel.bpf.features import ProgramSet
from tests.flowtable.harness import VIOLATIONS, arena

pytestmark = [
    pytest.mark.must_run,
    pytest.mark.skipif(os.geteuid() != 0, reason="loading BPF programs needs root"),
]

ROUNDS, OPERATIONS = 15, 10_000  # on two CPUs: 300 000 operations a case
# Slots against keys: roomy, crowded (windows fill, flows overflow), tiny (the overflow map fills as well).
ROOMY, CROWDED, TINY = (4096, 256, 4096), (256, 256, 4096), (64, 256, 16)


either_set = pytest.mark.parametrize("program_set", list(ProgramSet), ids=lambda one: one.value)


def _violations(totals):
    return {name: totals[name] for name in VIOLATIONS if totals[name]}


@pytest.mark.parametrize("size", [ROOMY, CROWDED, TINY], ids=["roomy", "crowded", "tiny"])
@pytest.mark.parametrize("program", ["check_main4", "check_main6"])
def test_established_table_matches_the_model(program, size):
    """Private keys answer as the model says, shared keys are there at most once."""
    slots, keys, overflow = size
    with arena(slots=slots, keys=keys, overflow=overflow) as table:
        totals = table.drive(program, rounds=ROUNDS, operations=OPERATIONS)

        assert _violations(totals) == {}
        assert totals["done"] == ROUNDS * OPERATIONS * len(table.cpus)
        assert set(table.balance()) <= {0, 1}
        if size is TINY:
            assert totals["full"] > 0
        else:
            assert totals["put"] > totals["done"] // 4


@either_set
@pytest.mark.parametrize("size", [ROOMY, CROWDED, TINY], ids=["roomy", "crowded", "tiny"])
def test_what_is_left_is_what_was_put_and_not_removed(size, program_set):
    """The slots hold each key once, exactly the keys whose insertions outnumber their removals."""
    slots, keys, overflow = size
    with arena(slots=slots, keys=keys, overflow=overflow, program_set=program_set) as table:
        totals = table.drive("check_main4", rounds=ROUNDS, operations=OPERATIONS)

        live = table.live_keys("flow4")
        assert totals["done"] == ROUNDS * OPERATIONS * len(table.cpus)
        assert _violations(totals) == {}
        assert len(live) == len(set(live))
        assert len(live) == totals["put"] - totals["removed"] == table.balance()[1]


@pytest.mark.parametrize("program", ["check_half4", "check_half6"])
def test_half_open_table_gives_way_but_never_mixes(program):
    """In a half-open table entries give way to newer ones, yet no rewrite belongs to another key."""
    with arena(slots=256, keys=256) as table:
        totals = table.drive(program, rounds=ROUNDS, operations=OPERATIONS)

        assert _violations(totals) == {}
        assert totals["full"] == 0
        assert totals["put"] > totals["done"] // 4


@either_set
def test_half_open_keys_are_unique(program_set):
    """No key is twice in a half-open table."""
    with arena(slots=256, keys=256, program_set=program_set) as table:
        table.drive("check_half4", rounds=ROUNDS, operations=OPERATIONS)

        live = table.live_keys("half4")
        assert live
        assert len(live) == len(set(live))


@either_set
def test_ageing_empties_the_tables_and_frees_every_slot(program_set):
    """Flows that time out while both CPUs insert end for good: all slots free, overflow map empty."""
    with arena(slots=256, keys=256, timeout=2, program_set=program_set) as table:
        totals = table.drive("check_main4", rounds=ROUNDS, operations=OPERATIONS)
        assert _violations({**totals, "lost": 0, "phantom": 0, "doubled": 0, "unremoved": 0}) == {}

        deadline = time.monotonic() + 20
        while table.slot_states("flow4") != {abi.SLOT_FREE: 256} or table.runtime().overflow4:
            assert time.monotonic() < deadline, table.slot_states("flow4")


@pytest.mark.nightly
def test_ten_million_operations():
    """The long form, with a new secret each time."""
    for slots, keys, overflow in (ROOMY, CROWDED, TINY) * 4:
        with arena(slots=slots, keys=keys, overflow=overflow) as table:
            totals = table.drive("check_main4", rounds=50, operations=10_000)
            assert _violations(totals) == {}
            assert set(table.balance()) <= {0, 1}

# SPDX-License-Identifier: Apache-2.0
"""Endpoints that leave, fail, come back and start slowly: what is planned at which time."""

from collections import Counter
from collections.abc import Collection, Iterable
from ipaddress import ip_address, ip_network
from typing import Any, TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from loxilb.kernel.fake import FakeDataPlane
from loxilb.model import LossPolicy, Mode, Probe, Selection, Service
from loxilb.model.image import DropEndpoint, EndpointFlags, EndpointId, Op, PutEndpoint, PutRing, PutRule
from loxilb.model.probe import Availability, EndpointKey
from loxilb.plan import Ledger, Limits, adopt, plan, recover
from tests.support.services import key, service

UP, RESTING, DOWN, OUT = Availability.UP, Availability.DRAINING, Availability.DOWN, Availability.OUT
RESET, DRAIN, KEEP = LossPolicy
ONE, TWO, THREE = "31.31.31.1,8080", "32.32.32.1,8080", "33.33.33.1,8080"
RESTED = EndpointFlags.LIVE | EndpointFlags.DRAINING
LEFT = {KEEP: RESTED | EndpointFlags.REMOVED, DRAIN: RESTED | EndpointFlags.REMOVED | EndpointFlags.TIMED}

_Kind = TypeVar("_Kind")


class Board:
    """A ledger and a fake data plane that follow the same plans, at times of their own."""

    def __init__(self) -> None:
        self.fake, self.ledger, self.now = FakeDataPlane(), Ledger(Limits()), 1_000.0
        self.health: dict[EndpointKey, Availability] = {}

    def put(self, wanted: Service, without_flows: Collection[int] = ()) -> list[Op]:
        """Plan and carry out; nothing is left to plan then."""
        slots = [EndpointId(slot) for slot in without_flows]
        for done in (False, True):
            planned = plan(
                {wanted.key: wanted}, self.ledger, {}, self.health, now=self.now, without_flows=() if done else slots
            )
            assert not (done and planned.ops)
            self.fake.apply(planned.ops)
            planned.commit(self.ledger)
            if not done:
                ops = list(planned.ops)
        return ops

    def flags(self) -> dict[int, EndpointFlags]:
        """Return the flags of each slot."""
        return {slot: entry.flags for slot, entry in self.fake.observe().endpoints.items()}

    def shares(self) -> dict[int, float]:
        """Return the share of the slice that each slot has."""
        (ring,) = self.fake.observe().rings.values()
        return {slot: count / len(ring) for slot, count in Counter(ring).items()}

    def fail(self, *numbers: int, state: Availability = DOWN) -> None:
        """Let endpoints be in a state from the next plan on."""
        self.health |= {EndpointKey(ip_address(f"{30 + n}.{30 + n}.{30 + n}.1"), "tcp", 8080): state for n in numbers}


def lossy(loss: LossPolicy, *endpoints: str, **more: Any) -> Service:
    """Return a service with a policy; policy drain leaves 60 s."""
    drain: dict[str, Any] = {"drain_timeout": 60} if loss is DRAIN else {}
    return service(endpoints or (ONE, TWO, THREE), loss=loss, **drain, **more)


def of_kind(ops: Iterable[Op], kind: type[_Kind]) -> list[_Kind]:
    """Return the operations of a kind."""
    return [op for op in ops if isinstance(op, kind)]


def test_reset_drops_a_removed_endpoint_at_once():
    board = Board()
    board.put(lossy(RESET))

    assert DropEndpoint(endpoint=EndpointId(2)) in board.put(lossy(RESET, ONE, THREE))
    assert set(board.flags()) == {1, 3}


@pytest.mark.parametrize("loss", [DRAIN, KEEP])
def test_a_removed_endpoint_leaves_the_slice_and_keeps_its_flows(loss):
    board = Board()
    board.put(lossy(loss))

    ops = board.put(lossy(loss, ONE, THREE))

    assert [type(op) for op in ops] == [PutRing, PutRule, PutEndpoint]
    assert board.shares() == {1: 0.5, 3: 0.5}
    assert board.flags() == {1: EndpointFlags.LIVE, 2: LEFT[loss], 3: EndpointFlags.LIVE}
    assert board.ledger.restless == {key()}


def test_drain_has_a_deadline_and_keep_has_none():
    for loss, left in ((DRAIN, {1}), (KEEP, {1, 2, 3})):
        board = Board()
        board.put(lossy(loss))
        board.put(lossy(loss, ONE))
        board.now += 59.9
        assert board.put(lossy(loss, ONE)) == []
        board.now += 0.2
        board.put(lossy(loss, ONE))
        assert set(board.flags()) == left
        assert board.ledger.restless == (set() if loss is DRAIN else {key()})


def test_the_deadline_is_that_of_the_removal_whatever_else_changes():
    board = Board()
    board.put(lossy(DRAIN))
    board.put(lossy(DRAIN, ONE, TWO))
    board.now += 50
    board.put(lossy(DRAIN, ONE))
    board.now += 20
    board.put(lossy(DRAIN, ONE, inactive_timeout=9))
    assert set(board.flags()) == {1, 2}


def test_a_removed_endpoint_without_flows_goes():
    board = Board()
    board.put(lossy(KEEP))
    board.put(lossy(KEEP, ONE))

    assert board.put(lossy(KEEP, ONE), without_flows=[1, 2]) == [DropEndpoint(endpoint=EndpointId(2))]
    assert set(board.flags()) == {1, 3}


def test_one_that_comes_back_takes_its_slot_with_its_flows():
    board = Board()
    board.put(lossy(DRAIN))
    board.put(lossy(DRAIN, ONE, THREE))
    board.now += 59

    ops = board.put(lossy(DRAIN))

    assert [(op.endpoint, op.fresh) for op in of_kind(ops, PutEndpoint)] == [(2, False)]
    assert set(board.flags().values()) == {EndpointFlags.LIVE}
    board.now += 59
    board.put(lossy(DRAIN, ONE))
    assert board.flags()[2] == LEFT[DRAIN]


def test_of_two_equal_endpoints_one_leaves():
    board = Board()
    board.put(lossy(KEEP, ONE, ONE))
    board.put(lossy(KEEP, ONE))
    assert board.flags() == {1: EndpointFlags.LIVE, 2: LEFT[KEEP]}

    board.put(lossy(KEEP, ONE, ONE))
    assert board.flags() == {1: EndpointFlags.LIVE, 2: EndpointFlags.LIVE}


def test_the_policy_of_now_counts_for_those_that_left_before():
    board = Board()
    board.put(lossy(KEEP))
    board.put(lossy(KEEP, ONE, TWO))

    board.put(lossy(RESET, ONE, TWO))
    assert set(board.flags()) == {1, 2}


def test_deleting_the_service_ends_what_drains():
    board = Board()
    board.put(lossy(KEEP))
    board.put(lossy(KEEP, ONE))

    planned = plan({key(): None}, board.ledger, {})
    board.fake.apply(planned.ops)
    planned.commit(board.ledger)

    assert board.flags() == {}
    assert board.ledger.free == Ledger(Limits()).free
    assert board.ledger.restless == set()


@pytest.mark.parametrize(
    ("loss", "at_once", "later"),
    [
        (RESET, EndpointFlags.NONE, EndpointFlags.NONE),
        (DRAIN, RESTED, EndpointFlags.NONE),
        (KEEP, RESTED, RESTED),
    ],
)
def test_one_that_fails_its_probes(loss, at_once, later):
    """It gets no new flow; the policy says what becomes of those it has."""
    board = Board()
    board.put(lossy(loss))
    board.fail(2)
    board.put(lossy(loss))
    assert (board.flags()[2], board.shares()) == (at_once, {1: 0.5, 3: 0.5})

    board.now += 60
    board.put(lossy(loss))
    assert board.flags()[2] == later
    board.fail(2, state=UP)
    board.put(lossy(loss))
    assert (board.flags()[2], len(board.shares())) == (EndpointFlags.LIVE, 3)


@pytest.mark.parametrize("loss", LossPolicy)
def test_what_an_operator_takes_out_ends_whatever_the_policy(loss):
    """And it does not come to life by failing."""
    board = Board()
    board.put(lossy(loss))
    for state in (OUT, DOWN):
        board.fail(2, state=state)
        board.put(lossy(loss))
        assert board.flags()[2] is EndpointFlags.NONE


@pytest.mark.parametrize("loss", LossPolicy)
def test_one_that_rests_keeps_its_flows_whatever_the_policy(loss):
    board = Board()
    board.put(lossy(loss))
    board.fail(2, state=RESTING)
    board.put(lossy(loss))
    board.now += 1e6
    board.put(lossy(loss))
    assert board.flags()[2] == EndpointFlags.LIVE | EndpointFlags.DRAINING


def test_the_time_of_one_that_rested_starts_when_it_fails_or_leaves():
    for change in ("fails", "leaves"):
        board = Board()
        board.put(lossy(DRAIN))
        board.fail(2, state=RESTING)
        board.put(lossy(DRAIN))
        board.now += 1_000
        board.fail(2, state=DOWN if change == "fails" else RESTING)
        wanted = lossy(DRAIN) if change == "fails" else lossy(DRAIN, ONE, THREE)
        board.put(wanted)
        board.now += 59
        board.put(wanted)
        assert EndpointFlags.LIVE in board.flags()[2]
        board.now += 2
        board.put(wanted)
        assert EndpointFlags.LIVE not in board.flags().get(2, EndpointFlags.NONE)


@pytest.mark.parametrize("loss", [DRAIN, KEEP])
def test_one_without_flows_to_keep_is_dropped_at_once(loss):
    board = Board()
    board.put(lossy(loss))
    board.fail(2, state=OUT)
    board.put(lossy(loss))
    board.put(lossy(loss, ONE, THREE))
    assert set(board.flags()) == {1, 3}


def test_a_new_daemon_finds_what_drains():
    """The service comes back without it; its deadline starts again."""
    board = Board()
    wanted = lossy(DRAIN, ONE, THREE, inactive_timeout=240)
    board.put(lossy(DRAIN, inactive_timeout=240))
    board.put(wanted)

    assert recover(board.fake.observe()) == [replace(wanted, drain_timeout=0)]
    board.now = 7.0
    board.ledger, strays, _ = adopt(board.fake.observe(), Limits(), [wanted], board.now)
    assert (strays, board.put(wanted), board.ledger.restless) == ([], [], {key()})
    board.now += 59
    board.put(wanted)
    assert board.flags()[2] == LEFT[DRAIN]
    board.now += 2
    board.put(wanted)
    assert set(board.flags()) == {1, 3}


ANYTHING = {
    "mode": {"mode": Mode.FULLNAT},
    "selection": {"selection": Selection.LC},
    "hash": {"selection": Selection.HASH},
    "persist": {"selection": Selection.PERSIST, "persist_timeout": 9},
    "timeout": {"inactive_timeout": 9},
    "probe": {"monitor": True, "probe": Probe(kind="tcp", port=9, period=9, retries=9)},
    "sources": {"allowed_sources": (ip_network("10.0.0.0/8"),)},
    "loss": {"loss": DRAIN, "drain_timeout": 9},
    "slow start": {"slow_start": 9},
    "name": {"name": "other", "bgp": True},
    "private": {"private_address": ip_address("10.0.0.9")},
}


@pytest.mark.parametrize("change", ANYTHING.values(), ids=ANYTHING)
def test_whatever_changes_endpoints_that_stay_keep_slots_flows_and_counters(change):
    """Also when another endpoint comes at the same time, and weights change."""
    board = Board()
    board.put(service((ONE, TWO)))

    for wanted in (service((ONE, TWO), **change), service((f"{ONE},7", TWO, THREE), **change), service((ONE, TWO))):
        ops = board.put(wanted)

        assert not [op for op in of_kind(ops, DropEndpoint) if op.endpoint in (1, 2)]
        assert not [op for op in of_kind(ops, PutEndpoint) if op.endpoint in (1, 2) and op.fresh]
        assert not [op for op in of_kind(ops, PutRule) if op.fresh]
        assert {board.flags()[slot] for slot in (1, 2)} == {EndpointFlags.LIVE}


# Slow start


def slow(*endpoints: str, selection: Selection = Selection.RR, **more: Any) -> Service:
    """Return a service whose new endpoints have their full share after 100 s."""
    return service(endpoints or (ONE, TWO, THREE), slow_start=100, selection=selection, **more)


@pytest.mark.parametrize(
    ("selection", "weights", "full"),
    [(Selection.RR, (1, 1, 1), 1 / 3), (Selection.PRIORITY, (5, 2, 3), 0.3)],
)
def test_a_new_endpoint_gets_its_share_in_tenths(selection, weights, full):
    board = Board()
    endpoints = [f"{one},{weight}" for one, weight in zip((ONE, TWO, THREE), weights, strict=True)]
    board.put(slow(*endpoints[:2], selection=selection))
    assert board.ledger.restless == set()
    start, seen = board.now, []
    for elapsed in (0, 9.9, 20, 55, 99.9, 100):
        board.now = start + elapsed
        board.put(slow(*endpoints, selection=selection))
        part = max(1, int(elapsed / 10)) / 10
        assert board.shares()[3] == pytest.approx(full * part / (1 - full + full * part))
        seen.append(set(board.ledger.restless))
    assert seen == [{key()}] * 5 + [set()]


def test_strict_order_and_exact_weights_hold_before_and_after():
    for selection, ring in ((Selection.RR, (1, 2, 3)), (Selection.PRIORITY, (1, 2, 3))):
        board = Board()
        board.put(slow(selection=selection))
        assert board.fake.observe().rings == {1: ring}
        board.put(slow(ONE, TWO, selection=selection))
        board.put(slow(selection=selection))
        assert board.fake.observe().rings != {1: ring}
        board.now += 100
        board.put(slow(selection=selection))
        (after,) = board.fake.observe().rings.values()
        assert after in ((1, 2, 3), (1, 2, 4))


def test_the_next_step_is_known():
    board = Board()
    board.put(slow(ONE, TWO))
    start = board.now
    board.put(slow())
    steps = []
    while board.ledger.restless:
        (one,) = (board.ledger.services[each] for each in board.ledger.restless)
        steps.append(one.next_change - start)
        board.now = one.next_change
        before = board.shares()[3]
        board.put(slow())
        assert board.shares()[3] > before
    assert steps == pytest.approx(range(20, 101, 10))


def test_one_that_is_well_again_starts_slowly():
    board = Board()
    board.put(slow())
    for state in (DOWN, RESTING, OUT):
        board.fail(2, state=state)
        board.put(slow())
        board.fail(2, state=UP)
        board.put(slow())
        assert board.shares()[2] == pytest.approx(1 / 21)
        board.now += 100
        board.put(slow())
        assert board.shares()[2] == pytest.approx(1 / 3)


def test_with_least_connections_a_new_endpoint_has_enough_with_fewer_flows():
    """Not all new ones, as it would get without a share: a tenth of what the others have, then more."""
    board = Board()
    board.put(slow(ONE, TWO, selection=Selection.LC))
    (listener,) = board.fake.observe().listeners
    client = ip_address("10.10.10.1")
    for port in range(100):
        board.fake.connect(listener, client, port)
    start, had = board.now, []
    board.put(slow(selection=Selection.LC))
    for elapsed in (0, 50, 100):
        board.now = start + elapsed
        board.put(slow(selection=Selection.LC))
        while board.fake.connect(listener, client, port := port + 1) == 3:
            pass
        had.append(Counter(flow.endpoint for flow in board.fake.flows())[3] // 2)
    assert had == [5, 25, 51]


@pytest.mark.parametrize("selection", [Selection.RR, Selection.PRIORITY, Selection.LC])
def test_a_slow_start_goes_on_in_a_new_daemon(selection):
    board = Board()
    wanted = slow(selection=selection, inactive_timeout=240)
    board.put(slow(ONE, TWO, selection=selection))
    board.put(wanted)
    board.now += 35
    board.put(wanted)

    assert recover(board.fake.observe()) == [replace(wanted, slow_start=0)]
    board.now = 7.0
    board.ledger, _, _ = adopt(board.fake.observe(), Limits(), [wanted], board.now)
    assert board.put(wanted) == []
    board.now += 69
    board.put(wanted)
    assert board.ledger.restless == {key()}
    board.now += 1
    board.put(wanted)
    assert board.ledger.restless == set()


endpoints = st.lists(st.sampled_from([ONE, TWO, THREE, "34.34.34.1,8080,3"]), min_size=1, max_size=5)
states = st.dictionaries(st.integers(1, 4), st.sampled_from(Availability), max_size=3)
rules = st.tuples(
    endpoints,
    st.sampled_from(LossPolicy),
    st.sampled_from([0, 30]),
    st.sampled_from([Selection.RR, Selection.PRIORITY, Selection.LC]),
)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(rules, states, st.sampled_from([0.0, 1.0, 25.0, 61.0])), max_size=8))
def test_whatever_happens_every_moment_is_right_and_nothing_leaks(steps):
    """The fake refuses what would be wrong for a moment; whoever is up takes flows, and nobody else."""
    board = Board()
    for (places, loss, slow_start, selection), changes, passed in steps:
        board.now += passed
        for number, state in changes.items():
            board.fail(number, state=state)
        wanted = replace(lossy(loss, *places), slow_start=slow_start, selection=selection)
        board.put(wanted)
        image = board.fake.observe()
        (ring,) = image.rings.values()
        up = {EndpointKey.of(wanted, one) for one in wanted.endpoints} - {k for k, v in board.health.items() if v != UP}
        assert {EndpointKey(image.endpoints[slot].address, "tcp", 8080) for slot in ring} == up
        kept = [one for one in image.endpoints.values() if EndpointFlags.REMOVED not in one.flags]
        assert sorted(one.address for one in kept) == sorted(one.address for one in wanted.endpoints)

    planned = plan({key(): None}, board.ledger, {})
    board.fake.apply(planned.ops)
    planned.commit(board.ledger)
    assert board.ledger.free == Ledger(Limits()).free

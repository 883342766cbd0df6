# SPDX-License-Identifier: Apache-2.0
"""From a change to operations."""

from collections.abc import Sequence
from ipaddress import ip_address

import pytest

from loxilb.errors import Conflict, InvalidRequest, NotBuilt
from loxilb.kernel.fake import FakeDataPlane
from loxilb.model import IPAddress, Mode, Selection, Service, ServiceKey
from loxilb.model.image import (
    DropEndpoint,
    DropListener,
    DropRule,
    EndpointEntry,
    EndpointId,
    Listener,
    Op,
    PutEndpoint,
    PutListener,
    PutRing,
    PutRule,
    RuleEntry,
    RuleId,
    one_by_one,
)
from loxilb.plan import Ledger, Limits, Plan, plan
from tests.support.services import key, service


class Board:
    """A ledger and a fake data plane that follow the same plans."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self.ledger = Ledger(self.limits)
        self.fake = FakeDataPlane(self.limits)

    def plan(
        self,
        *services: Service,
        gone: tuple[ServiceKey, ...] = (),
        sources: dict[IPAddress, IPAddress] | None = None,
    ) -> Plan:
        changes: dict[ServiceKey, Service | None] = {one.key: one for one in services}
        return plan(changes | dict.fromkeys(gone), self.ledger, sources or {})

    def done(self, planned: Plan) -> list[Op]:
        if planned.ops:
            self.fake.apply(planned.ops)
        planned.commit(self.ledger)
        return list(planned.ops)


def listener(port: int = 2020, vip: str = "20.20.20.1") -> Listener:
    return Listener(version=4, address=int(ip_address(vip)), protocol="tcp", port=port)


def entry(address: str, source: str = "", rule: int = 1) -> EndpointEntry:
    return EndpointEntry(
        rule=RuleId(rule),
        address=ip_address(address),
        port=8080,
        source=ip_address(source) if source else None,
    )


def kinds(ops: Sequence[Op]) -> list[str]:
    return [type(op).__name__ for op in ops]


def test_a_new_service_is_written_from_the_inside_out():
    board = Board()

    ops = board.done(board.plan(service(("31.31.31.1,8080", "32.32.32.1,8080"))))

    rule = RuleEntry(mode=Mode.DEFAULT, selection=Selection.RR, timeout=240, ring_base=0, ring_length=2)
    assert list(one_by_one(ops)) == [
        PutEndpoint(endpoint=EndpointId(1), entry=entry("31.31.31.1")),
        PutEndpoint(endpoint=EndpointId(2), entry=entry("32.32.32.1")),
        PutRing(base=0, endpoints=(EndpointId(1), EndpointId(2))),
        PutRule(rule=RuleId(1), entry=rule),
        PutListener(listener=listener(), rule=RuleId(1)),
    ]


def test_one_more_endpoint_leaves_the_others_and_the_round_robin_alone():
    board = Board()
    board.done(board.plan(service(("31.31.31.1,8080", "32.32.32.1,8080"))))

    ops = board.done(board.plan(service()))

    rule = RuleEntry(mode=Mode.DEFAULT, selection=Selection.RR, timeout=240, ring_base=2, ring_length=3)
    assert ops == [
        PutEndpoint(endpoint=EndpointId(3), entry=entry("33.33.33.1")),
        PutRing(base=2, endpoints=(EndpointId(1), EndpointId(2), EndpointId(3))),
        PutRule(rule=RuleId(1), entry=rule, fresh=False),
    ]


def test_an_endpoint_that_goes_is_dropped_after_the_rule_has_left_it():
    board = Board()
    board.done(board.plan(service()))

    ops = board.done(board.plan(service(("31.31.31.1,8080", "33.33.33.1,8080"))))

    assert kinds(ops) == ["PutRing", "PutRule", "DropEndpoint"]
    assert ops[-1] == DropEndpoint(endpoint=EndpointId(2))


def test_deleting_goes_from_the_outside_in():
    board = Board()
    board.done(board.plan(service(("31.31.31.1,8080",))))

    ops = board.done(board.plan(gone=(key(),)))

    assert ops == [
        DropListener(listener=listener()),
        DropRule(rule=RuleId(1)),
        DropEndpoint(endpoint=EndpointId(1)),
    ]
    assert board.ledger.free == Ledger(board.limits).free


def test_only_the_timeout_rewrites_only_the_rule():
    board = Board()
    board.done(board.plan(service()))

    ops = board.done(board.plan(service(inactive_timeout=30)))

    assert [(type(op), getattr(op, "fresh", None)) for op in ops] == [(PutRule, False)]


def test_deleting_nothing_is_an_empty_plan():
    board = Board()

    assert board.plan(gone=(key(),)).ops == ()


def test_a_range_has_a_listener_for_each_port():
    board = Board()

    board.done(board.plan(service(of=key(port=100, port_max=103))))

    assert board.fake.observe().listeners == {listener(port): RuleId(1) for port in range(100, 104)}


def test_overlapping_ranges_clash_and_leave_the_ledger_as_it_was():
    board = Board()
    board.done(board.plan(service(of=key(port=100, port_max=103))))
    free = board.ledger.free

    with pytest.raises(Conflict, match=r"port 103/tcp belongs to the service 20\.20\.20\.1 100-103"):
        board.plan(service(of=key(port=103)))
    assert board.ledger.free == free


def test_two_new_services_clash_with_each_other():
    board = Board()

    with pytest.raises(Conflict, match="port 102/tcp"):
        board.plan(service(of=key(port=100, port_max=102)), service(of=key(port=102)))


def test_a_listener_moves_to_another_service_in_one_write():
    board = Board()
    board.done(board.plan(service(of=key(port=100, port_max=101))))

    ops = board.done(board.plan(service(of=key(port=101)), gone=(key(port=100, port_max=101),)))

    assert PutListener(listener=listener(101), rule=RuleId(2)) in one_by_one(ops)
    assert [op for op in ops if isinstance(op, DropListener)] == [DropListener(listener=listener(100))]
    assert board.ledger.owners == {listener(101): key(port=101)}


def test_the_private_address_is_listened_on():
    board = Board()

    board.done(board.plan(service(private_address=ip_address("10.0.0.9"), mode=Mode.FULLNAT)))

    image = board.fake.observe()
    assert list(image.listeners) == [listener(vip="10.0.0.9")]
    assert {one.source for one in image.endpoints.values()} == {ip_address("10.0.0.9")}


def test_fullnat_sends_from_the_service_address():
    board = Board()

    board.done(board.plan(service(("31.31.31.1,8080",), mode=Mode.FULLNAT)))

    assert board.fake.observe().endpoints == {1: entry("31.31.31.1", "20.20.20.1")}


def test_onearm_sends_from_this_host_and_waits_for_a_route():
    board = Board()
    onearm = service(("31.31.31.1,8080", "32.32.32.1,8080"), mode=Mode.ONEARM)
    sources = {ip_address("31.31.31.1"): ip_address("31.31.31.254")}

    board.done(board.plan(onearm, sources=sources))

    assert board.fake.observe().endpoints == {1: entry("31.31.31.1", "31.31.31.254"), 2: entry("32.32.32.1")}


def test_a_new_route_rewrites_one_endpoint_and_keeps_its_counters():
    board = Board()
    onearm = service(("31.31.31.1,8080",), mode=Mode.ONEARM)
    board.done(board.plan(onearm))

    ops = board.done(board.plan(onearm, sources={ip_address("31.31.31.1"): ip_address("31.31.31.254")}))

    assert ops == [PutEndpoint(endpoint=EndpointId(1), entry=entry("31.31.31.1", "31.31.31.254"), fresh=False)]


def test_sources_come_before_the_mode_that_needs_them_and_go_after_it():
    board = Board()
    board.done(board.plan(service(("31.31.31.1,8080",))))

    there = board.done(board.plan(service(("31.31.31.1,8080",), mode=Mode.FULLNAT)))
    back = board.done(board.plan(service(("31.31.31.1,8080",))))

    assert kinds(there) == ["PutEndpoint", "PutRule"]
    assert kinds(back) == ["PutRule", "PutEndpoint"]
    assert back[1] == PutEndpoint(endpoint=EndpointId(1), entry=entry("31.31.31.1"), fresh=False)


def test_equal_endpoints_have_slots_of_their_own():
    board = Board()

    board.done(board.plan(service(("31.31.31.1,8080", "31.31.31.1,8080"))))

    assert board.fake.observe().rings == {1: (1, 2)}


@pytest.mark.parametrize(
    "limits",
    [Limits(rules=1), Limits(endpoints=5), Limits(ring=5), Limits(listeners=1), Limits(service_endpoints=2)],
    ids=["rules", "endpoints", "ring", "listeners", "endpoints of a service"],
)
def test_a_limit_is_reached_before_anything_changes(limits):
    board = Board(limits)
    if limits.service_endpoints > 2:
        board.done(board.plan(service()))
    free, image = board.ledger.free, board.fake.observe()

    with pytest.raises(InvalidRequest) as caught:
        board.plan(service(of=key("20.20.20.2")))
    assert caught.value.code in ("rule-hwm error", "endpoints-range error")
    assert board.ledger.free == free
    assert board.fake.observe() == image


def test_what_is_not_built_is_refused_before_anything_is_taken():
    board = Board()
    free = board.ledger.free

    with pytest.raises(NotBuilt):
        board.plan(service(), service(of=key("20.20.20.2"), selection=Selection.N2))
    assert board.ledger.free == free


def test_an_abandoned_plan_gives_everything_back():
    board = Board()
    free = board.ledger.free

    board.plan(service()).abandon(board.ledger)

    assert board.ledger.free == free


def test_the_old_slice_is_not_taken_before_the_plan_is_done():
    board = Board(Limits(ring=5))
    board.done(board.plan(service()))

    with pytest.raises(InvalidRequest, match="ring slots"):
        board.plan(service(("31.31.31.1,8080", "32.32.32.1,8080", "34.34.34.1,8080")))
    ops = board.done(board.plan(service(("31.31.31.1,8080", "32.32.32.1,8080"))))

    assert [op.base for op in ops if isinstance(op, PutRing)] == [3]
    assert board.ledger.free[2] == 3


def test_a_listener_with_a_mark_takes_two_places():
    """It needs the one without a mark, too, which tells the data plane to look for marks."""
    board = Board(Limits(listeners=3))
    board.done(board.plan(service(of=key(port=101, block=7))))

    with pytest.raises(InvalidRequest, match="listeners"):
        board.plan(service(of=key(port=102, block=7)))
    board.done(board.plan(service(of=key(port=102))))
    assert board.ledger.places == 3


def test_listeners_that_go_make_room():
    board = Board(Limits(listeners=2))
    board.done(board.plan(service(of=key(port=100, port_max=101))))

    board.done(board.plan(service(of=key(port=101, port_max=102)), gone=(key(port=100, port_max=101),)))
    with pytest.raises(InvalidRequest, match="listeners"):
        board.plan(service(of=key(port=1)))
    assert sorted(one.port for one in board.fake.observe().listeners) == [101, 102]

# SPDX-License-Identifier: Apache-2.0
"""Flows that are idle for too long end."""

import time
from collections.abc import Mapping
from dataclasses import replace

import pytest
from msgspec import structs

from loxilb.kernel.abi import ONE_WAY_PACKETS, Reason
from loxilb.model import Endpoint, FlowState, L4Protocol, Mode, Selection
from tests.packet.driver import PORT, SMALL, Driver, Path
from tests.support.bpf import SERVERS, Hook
from tests.support.lab import wait_for
from tests.support.packets import ACK, FIN, RST, SYN, Packet

pytestmark = pytest.mark.must_run
SHORT_S = 0.2
# A state without a timeout of its own has the rule's.
TIMED = set(FlowState) - {FlowState.NONE, FlowState.TWO_WAY}
SETTINGS = replace(SMALL, flows4=64, flows6=64, half_open4=64, half_open6=64, timeouts=dict.fromkeys(TIMED, SHORT_S))
STATES: Mapping[FlowState, tuple[str, ...]] = {
    FlowState.SYN_SENT: ("syn",),
    FlowState.SYN_RECEIVED: ("syn", "syn-ack"),
    FlowState.ESTABLISHED: ("syn", "syn-ack", "ack"),
    FlowState.CLOSING: ("syn", "syn-ack", "ack", "fin"),
    FlowState.TIME_WAIT: ("syn", "syn-ack", "ack", "fin", "fin back"),
    FlowState.RESET: ("syn", "syn-ack", "ack", "rst"),
}


def packet(path: Path, name: str) -> Packet:
    """Return a packet of a connection by its name."""
    flags = {"syn": SYN, "syn-ack": SYN | ACK, "ack": ACK, "fin": FIN | ACK, "fin back": FIN | ACK, "rst": RST}
    return (path.reply if name in ("syn-ack", "fin back") else path.request)(flags=flags[name])


@pytest.mark.parametrize("state", STATES, ids=lambda state: state.name.lower())
def test_an_idle_connection_ends(module_driver: Driver, hook: Hook, version: int, state: FlowState) -> None:
    """Both directions; its traffic stays counted, its slots become free, its ports may be used again."""
    service = module_driver.service(version)
    path = module_driver.path(service)
    module_driver.send(hook, *(packet(path, name) for name in STATES[state]))

    assert {flow.state for flow in module_driver.flows(service)} == {state}
    wait_for(lambda: not module_driver.flows(service), what="the end of the flow")

    assert module_driver.counters(service)[0].packets == len(STATES[state])
    wait_for(lambda: not module_driver.used_slots(), what="free slots")
    again = module_driver.path(service, endpoint=1, client=path.client, port=path.client_port)
    module_driver.expect(hook, again.request(flags=SYN), Reason.FORWARD_NEW, again.requested(flags=SYN))


@pytest.mark.parametrize("protocol", [L4Protocol.UDP, L4Protocol.ICMP], ids=lambda one: one.value)
def test_an_idle_datagram_flow_ends(module_driver: Driver, version: int, protocol: L4Protocol) -> None:
    """Whether it was answered or not."""
    service = module_driver.service(version, protocol, inactive_timeout=1)
    module_driver.send(Hook.XDP, module_driver.path(service).request())
    module_driver.open(Hook.TC, module_driver.path(service, endpoint=1))

    assert len(module_driver.flows(service)) == 4
    wait_for(lambda: not module_driver.flows(service), what="the end of the flows")
    assert [counter.packets for counter in module_driver.counters(service)] == [1, 2, 0]


@pytest.mark.parametrize("by_server", [False, True], ids=["client", "server"])
def test_traffic_of_one_direction_keeps_both(module_driver: Driver, version: int, by_server: bool) -> None:
    """A download is not idle because its acknowledgements are few."""
    service = module_driver.service(version)
    path = module_driver.open(Hook.XDP, module_driver.path(service))
    data = path.reply(payload=b"x") if by_server else path.request(payload=b"x")

    end = time.monotonic() + 4 * SHORT_S
    while time.monotonic() < end:
        module_driver.send(Hook.XDP, data)

    assert len(module_driver.flows(service)) == 2
    wait_for(lambda: not module_driver.flows(service), what="the end of the flow")


@pytest.mark.kernel
def test_a_rule_says_how_long_its_flows_may_be_idle(module_driver: Driver, version: int) -> None:
    """Where the state does not; a changed rule counts for the flows that are there."""
    brief, long = (module_driver.service(version, L4Protocol.UDP, inactive_timeout=seconds) for seconds in (1, 60))
    began = time.monotonic()
    for service in (brief, long):
        module_driver.open(Hook.TC, module_driver.path(service))

    wait_for(lambda: not module_driver.flows(brief), what="the end of the flow")
    assert time.monotonic() - began > 0.9
    assert len(module_driver.flows(long)) == 2
    module_driver.put(structs.replace(long, inactive_timeout=1))
    wait_for(lambda: not module_driver.flows(long), what="the end of the other flow")


@pytest.mark.parametrize("direct", [False, True], ids=["established", "direct"])
def test_who_is_not_answered_here_has_the_time_of_the_rule(
    module_driver: Driver, hook: Hook, version: int, direct: bool
) -> None:
    """With direct server return from the first packet on; else after so many that it counts as established."""
    more = {"mode": Mode.DSR, "selection": Selection.HASH} if direct else {}
    endpoint = Endpoint(address=SERVERS[0].gateway(version), port=PORT)
    kept, brief = (
        module_driver.service(version, L4Protocol.UDP, endpoints=[endpoint], inactive_timeout=3, **one)
        for one in (more, {})
    )
    packet = module_driver.path(kept).request()
    module_driver.send(hook, module_driver.path(brief).request(), *[packet] * (1 if direct else ONE_WAY_PACKETS + 1))
    began = time.monotonic()

    wait_for(lambda: not module_driver.flows(brief), what="the end of the flow")
    assert time.monotonic() - began < 2.5
    wait_for(lambda: not module_driver.flows(kept), what="the end of the other flow")
    assert time.monotonic() - began > 2.9

# SPDX-License-Identifier: Apache-2.0
"""Random sequences of packets through the model of the tracker and through the programs: they agree in everything.

One reason a packet, its verdict and its bytes; and after every packet all that the tables hold: keys, translations,
states, windows, counters, the live flows of every endpoint. XDP in front of TC, and TC alone.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from ipaddress import ip_network
from itertools import product

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from loxilb.model import Endpoint, FlowState, L4Protocol, Mode, Selection, Service
from tests.model.plane import Plane, Run, Seen, expected, peek, programs, route
from tests.model.sequences import CONVERSATIONS, Conversation, Move, Turn, described, sequences
from tests.model.tracker import Key, Outcome, Tracker
from tests.packet.conftest import loaded
from tests.packet.driver import PORT, SMALL, TARGET, Driver, verdict_of
from tests.support.bpf import SERVERS, Hook, Verdict, World
from tests.support.packets import difference

pytestmark = pytest.mark.must_run
SETTINGS = replace(
    SMALL,
    flows4=1024,
    flows6=1024,
    half_open4=1024,
    half_open6=1024,
    icmp_interval=0.0,
    timeouts=dict.fromkeys(FlowState, 3600.0),  # a sequence may take long, and the tables are emptied under the ager
)
WAYS = ((Hook.XDP, Hook.TC), (Hook.TC,))
SEQUENCES, NIGHTLY_SEQUENCES = 2_000, 100_000
PERSIST_S = 100
FIRST_PORT = 40_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What kind of service the packets are sent to."""

    version: int
    protocol: L4Protocol
    mode: Mode
    selection: Selection
    servers: int = 3
    restricted: bool = False


def cases(protocol: L4Protocol) -> list[Case]:
    """Return every kind of service; those with one server bring ports together."""
    found = [
        Case(version=version, protocol=protocol, mode=mode, selection=selection, servers=servers)
        for servers, mode, selection, version in product(
            (3, 1),
            (Mode.DEFAULT, Mode.ONEARM, Mode.FULLNAT),
            (Selection.RR, Selection.HASH, Selection.PERSIST, Selection.LC),
            (4, 6),
        )
    ]
    for version in (4, 6):
        found.append(
            Case(version=version, protocol=protocol, mode=Mode.DEFAULT, selection=Selection.PRIORITY, servers=0)
        )
        found.append(
            Case(version=version, protocol=protocol, mode=Mode.DEFAULT, selection=Selection.HASH, restricted=True)
        )
        if protocol is not L4Protocol.ICMP:
            found += [Case(version=version, protocol=protocol, mode=Mode.DSR, selection=Selection.HASH)] * 3
    return found


class Bench:
    """The programs, services of every kind in them, and clients to try them."""

    def __init__(self, driver: Driver) -> None:
        """Take a data plane for its own."""
        self.plane = Plane(driver)
        self._driver = driver
        self._services: dict[Case, tuple[Service, ...]] = {}
        self._clients = {version: tuple(driver.client(version) for _ in range(2)) for version in (4, 6)}
        self._hashed: dict[Key, int] = {}

    def services(self, case: Case) -> tuple[Service, ...]:
        """Return two services with the same endpoints."""
        if case not in self._services:
            self._services[case] = tuple(self._make(case) for _ in range(2))
        return self._services[case]

    def _make(self, case: Case) -> Service:
        port = 0 if case.protocol is L4Protocol.ICMP else PORT if case.mode is Mode.DSR else TARGET
        weight = 1 if case.servers else 0
        more = {"persist_timeout": PERSIST_S} if case.selection is Selection.PERSIST else {}
        allowed = tuple(ip_network(one) for one in self._clients[case.version][:1]) if case.restricted else ()
        return self._driver.service(
            case.version,
            case.protocol,
            mode=case.mode,
            selection=case.selection,
            endpoints=[
                Endpoint(address=one.gateway(case.version), port=port, weight=weight)
                for one in SERVERS[: case.servers or 1]
            ],
            allowed_sources=allowed,
            **more,
        )

    def play(self, case: Case, turns: Sequence[Turn], hooks: Sequence[Hook]) -> None:
        """Play a sequence to the model and the programs; AssertionError with all of it where they disagree."""
        services = self.services(case)
        self.plane.forget(case.version, services)
        sources = {one.gateway(case.version): one.address(case.version) for one in SERVERS}
        tracker = Tracker(services=services, route=route, sources=sources, hashed=self._hashed)
        play = Play(plane=self.plane, tracker=tracker, hooks=hooks, title=str(case))
        clients = self._clients[case.version]
        ports = (FIRST_PORT, FIRST_PORT + 1) if case.protocol is not L4Protocol.ICMP else (77, 78)
        conversations = [
            Conversation(client=clients[client], port=ports[port], service=services[service])
            for client, port, service in CONVERSATIONS
        ]
        for which, moves in turns:
            for move in moves:
                play.move(conversations[which], move)


class Play:
    """One sequence under way, with a table of what happened."""

    def __init__(self, *, plane: Plane, tracker: Tracker, hooks: Sequence[Hook], title: str) -> None:
        """Begin."""
        self._plane, self._tracker, self._hooks = plane, tracker, hooks
        self._version = tracker.services[0].key.address.version
        self._places = plane.places(tracker.services)
        self._now = 0.0
        self._rows: list[str] = [f"{' then '.join(hook.value for hook in hooks)}, {title}"]

    def move(self, conversation: Conversation, move: Move) -> None:
        """Make one move."""
        packet = conversation.packet(move, self._tracker.flows.get(conversation.there))
        if packet is None:
            return
        if move.wait:
            self._now += move.wait
            self._plane.wait(move.wait)
        self._rows.append(f"{len(self._rows):3} {described(packet)}")
        runs: list[Run] = []
        try:
            runs.extend(programs(self._hooks, self._plane, packet))
            flows = self._plane.flows(self._version, self._places)
            outcome = self._tracker.step(packet, self._now, lambda key: peek(flows, key))
            self._rows[-1] += f"\n       model {outcome.reason.name}, programs {runs[-1].reason.name}"
            _agree(outcome, runs[-1])
            wanted = expected(self._tracker)
            if flows != wanted:
                raise AssertionError(_compared(wanted, flows))
            for service in self._tracker.services:
                assert self._plane.active(service) == self._tracker.active(service), "live flows of the endpoints"
        except AssertionError as error:
            raise AssertionError("\n".join((str(error), "", *self._rows))) from None
        self._rows[-1] += f", {self._state(conversation)}"

    def _state(self, conversation: Conversation) -> str:
        flow = self._tracker.flows.get(conversation.there)
        return "no flow" if flow is None else f"{flow.life.state.name}{' half-open' if flow.half_open else ''}"


def _agree(outcome: Outcome, made: Run) -> None:
    assert outcome.reason is made.reason, f"model: {outcome.reason.name}, programs: {made.reason.name}"
    if verdict_of(outcome.reason) is not Verdict.DROPPED:
        found = difference(bytes(outcome.packet or b""), made.frame)
        assert not found, found


def _compared(wanted: dict[Key, Seen], found: dict[Key, Seen]) -> str:
    lines = ["the tables differ"]
    for key in dict.fromkeys((*wanted, *found)):
        model, program = wanted.get(key), found.get(key)
        names = [name for name in Seen._fields if getattr(model, name, None) != getattr(program, name, None)]
        if names:
            lines.append(f"{key.source}.{key.sport} > {key.destination}.{key.dport}")
        lines += [
            f"  {name}: model {getattr(model, name, '-')}, programs {getattr(program, name, '-')}" for name in names
        ]
    return "\n".join(lines)


@pytest.fixture(scope="module")
def bench(world: World) -> Iterator[Bench]:
    """Return a data plane that all sequences share."""
    with loaded(world, SETTINGS) as driver:
        made = Bench(driver)
        yield made
        made.plane.close()


@cache
def _any(protocol: L4Protocol, most: int) -> st.SearchStrategy[tuple[Case, list[Turn]]]:
    return st.tuples(st.sampled_from(cases(protocol)), sequences(protocol, most=most))


def compare(bench: Bench, protocol: L4Protocol, count: int, *, most: int = 14, anew: bool = False) -> None:
    """Play random sequences on both ways; the same in every run, unless they are to be drawn ``anew``."""

    @settings(
        max_examples=count,
        derandomize=not anew,
        deadline=None,
        database=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
        print_blob=False,
    )
    @given(_any(protocol, most))
    def play(drawn: tuple[Case, list[Turn]]) -> None:
        for hooks in WAYS:
            bench.play(*drawn, hooks)

    play()


@pytest.mark.parametrize(("protocol", "share"), [(L4Protocol.TCP, 0.7), (L4Protocol.UDP, 0.2), (L4Protocol.ICMP, 0.1)])
def test_model_and_programs_agree(bench: Bench, protocol: L4Protocol, share: float) -> None:
    """On random sequences, a few thousand of them."""
    compare(bench, protocol, round(SEQUENCES * share))


@pytest.mark.nightly
@pytest.mark.parametrize(("protocol", "share"), [(L4Protocol.TCP, 0.7), (L4Protocol.UDP, 0.2), (L4Protocol.ICMP, 0.1)])
def test_model_and_programs_agree_for_long(bench: Bench, protocol: L4Protocol, share: float) -> None:
    """The same on many and longer ones."""
    compare(bench, protocol, round(NIGHTLY_SEQUENCES * share), most=40, anew=True)

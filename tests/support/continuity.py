# SPDX-License-Identifier: Apache-2.0
"""What must go on over a restart: flows, counters, turns, least connections."""

from collections.abc import Collection, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Self

from loxilb.kernel.bpf import adoption, maps
from loxilb.kernel.bpf.tables import FlowTables
from tests.support.lab_star import Star
from tests.support.pinned import directory
from tests.support.traffic import ask, ask_on, connection

NAMES = ("server1", "server2", "server3")
_PATIENCE_S = 30.0


@dataclass(frozen=True, slots=True)
class State:
    """What was counted up to a moment.

    ``flows`` says of each live flow when it was opened and how many packets it has had, as the pinned tables have it;
    ``counters`` are packets and bytes of each endpoint of each service, as the API shows them.
    """

    flows: dict[bytes, tuple[int, int]]
    counters: dict[str, tuple[int, int]]

    @classmethod
    def of(cls, star: Star) -> Self:
        """Read it."""
        return cls(star.lb.namespace.call(_flows), _counters(star))

    def went_back(self, before: Self, held: Collection[bytes]) -> list[str]:
        """Return what is less than it was before, and which of the ``held`` flows is another or gone, for people."""
        same = {key for key in before.flows.keys() & self.flows.keys() if before.flows[key][0] == self.flows[key][0]}
        flows = [key.hex() for key in same if self.flows[key][1] < before.flows[key][1]]
        counters = [key for key, (packets, size) in before.counters.items() if self._less(key, packets, size)]
        return [*flows, *counters, *(key.hex() for key in held if key not in same)]

    def _less(self, key: str, packets: int, size: int) -> bool:
        now = self.counters[key]
        return now[0] < packets or now[1] < size


def _key(source: tuple[str, int], destination: tuple[str, int]) -> bytes:
    """Return what names the flow of a packet in ``State.flows``, as the packet has it."""
    ends = ((ip_address(address).packed, port.to_bytes(2, "big")) for address, port in (source, destination))
    return b"".join(part for end in ends for part in end)


def _flows() -> dict[bytes, tuple[int, int]]:
    found = adoption.pinned_maps(directory())
    tables = FlowTables(found, {name: maps.describe(one).max_entries for name, one in found.items()})
    seen = {
        b"".join(map(bytes, (hot.saddr, hot.head.sport, hot.daddr, hot.head.dport))): (cold.created, hot.head.packets)
        for hot, cold in tables.live()
    }
    adoption.close(found)
    return seen


def _counters(star: Star) -> dict[str, tuple[int, int]]:
    found = {}
    for rule in star.lb.api("GET", "/config/loadbalancer/all")["lbAttr"]:
        service = rule["serviceArguments"]
        for one in rule["endpoints"]:
            packets, _, size = one["counter"].partition(":")
            found[f"{service['externalIP']} {service['port']} {one['endpointIP']}"] = (int(packets), int(size))
    return found


class Quiet:
    """Connections that stay open over all restarts, and services whose next choice is known."""

    def __init__(self, vips: Sequence[str], in_turn: int, least: int, stack: ExitStack) -> None:
        """Open them, in the client's namespace: on the service for least connections one more to the first server."""
        self._vips, self._in_turn, self._least = vips, in_turn, least
        self._turn = 0
        self._held = [
            stack.enter_context(connection(vip, least, timeout=_PATIENCE_S))
            for vip in vips
            for _ in range(len(NAMES) + 1)
        ]
        self._expect_held()

    def _expect_held(self) -> None:
        assert [ask_on(sock).server for sock in self._held] == [*NAMES, NAMES[0]] * len(self._vips)

    def flows(self) -> list[bytes]:
        """Return the flows of the connections that stay open, from the client to the service."""
        return [_key(sock.getsockname()[:2], sock.getpeername()[:2]) for sock in self._held]

    def check(self) -> None:
        """Ask whether everything goes on where it was; AssertionError where not."""
        due = NAMES[self._turn % len(NAMES)]
        self._turn += 1
        assert [ask(vip, self._in_turn, timeout=_PATIENCE_S).server for vip in self._vips] == [due] * len(self._vips)
        self._expect_held()
        with ExitStack() as stack:
            for vip in self._vips:
                two = [stack.enter_context(connection(vip, self._least, timeout=_PATIENCE_S)) for _ in range(2)]
                assert {ask_on(sock).server for sock in two} == set(NAMES[1:])

# SPDX-License-Identifier: Apache-2.0
"""A data plane of default size with services, in a namespace of its own, to run made packets through."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address, ip_address

from tests.support.lab import Lab, Namespace

from bench.packet import ACK, SYN, Address, Frame
from bench.place import Device, device, inside
from loxilb.kernel.bpf import BpfDataPlane, DataPlaneSettings
from loxilb.model import L4Protocol, Mode, Selection
from loxilb.model.image import (
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
)

# Addresses set aside for measuring: RFC 2544 (IPv4), RFC 5180 (IPv6).
VIP4, VIP6 = IPv4Address("198.18.255.1"), IPv6Address("2001:2:0:ff::1")
SERVER4, SERVER6 = IPv4Address("198.19.1.2"), IPv6Address("2001:2:0:2::2")
SOURCE4 = IPv4Address("198.19.1.1")
_GATEWAY4, _GATEWAY6 = "198.18.0.254", "2001:2:0:1::fe"
WEB, DNS, FULLNAT, SERVER_PORT = 80, 53, 81, 8080
_TIMEOUT_S = 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class Bed:
    """The data plane; clients are behind ``front``, the endpoint is behind ``back``."""

    data_plane: BpfDataPlane
    front: Device
    back: Device

    def request(self, client: str, *, port: int = WEB, flags: int = ACK, udp: bool = False) -> Frame:
        """Return a client's packet to the service on ``port``."""
        source = ip_address(client)
        return Frame(
            mac=self.front.mac,
            source=source,
            destination=VIP4 if source.version == 4 else VIP6,
            source_port=1024,
            destination_port=port,
            flags=flags,
            udp=udp,
        )

    def answer(self, request: Frame, *, flags: int = ACK) -> Frame:
        """Return the endpoint's answer to a request."""
        answer = request.answered(
            mac=self.back.mac,
            endpoint=SERVER4 if request.source.version == 4 else SERVER6,
            port=SERVER_PORT,
            client=SOURCE4 if request.destination_port == FULLNAT else None,
        )
        return replace(answer, flags=flags)

    def handshake(self, request: Frame) -> tuple[tuple[Frame, Device], ...]:
        """Return the packets that establish the flow of ``request`` and the devices they arrive on."""
        if request.udp:
            return (request, self.front), (self.answer(request), self.back)
        return (
            (replace(request, flags=SYN), self.front),
            (self.answer(request, flags=SYN | ACK), self.back),
            (request, self.front),
        )


def _rule(number: int, address: Address, port: int, *, udp: bool = False, mode: Mode = Mode.DEFAULT) -> tuple[Op, ...]:
    rule, endpoint = RuleId(number), EndpointId(number)
    entry = EndpointEntry(
        rule=rule,
        address=SERVER4 if address.version == 4 else SERVER6,
        port=SERVER_PORT,
        source=SOURCE4 if mode is Mode.FULLNAT else None,
    )
    return (
        PutEndpoint(endpoint=endpoint, entry=entry),
        PutRing(base=number, endpoints=(endpoint,)),
        PutRule(
            rule=rule,
            entry=RuleEntry(mode=mode, selection=Selection.RR, timeout=_TIMEOUT_S, ring_base=number, ring_length=1),
        ),
        PutListener(listener=Listener.of(address, L4Protocol.UDP if udp else L4Protocol.TCP, port), rule=rule),
    )


def _build(lab: Lab) -> Namespace:
    lb, ends = lab.namespace("bed"), lab.namespace("ends")
    lab.link(lb, "front", ends, "front")
    lab.link(lb, "back", ends, "back")
    lb.sysctl(net__ipv4__ip_forward=1, net__ipv6__conf__all__forwarding=1)
    lb.ip(
        "addr add 198.18.0.1/24 dev front",
        f"addr add {SOURCE4}/24 dev back",
        "addr add 2001:2:0:1::1/64 dev front nodad",
        "addr add 2001:2:0:2::1/64 dev back nodad",
        f"neigh add {_GATEWAY4} lladdr 02:00:00:00:00:01 dev front",
        f"neigh add {_GATEWAY6} lladdr 02:00:00:00:00:01 dev front",
        f"neigh add {SERVER4} lladdr 02:00:00:00:00:02 dev back",
        f"neigh add {SERVER6} lladdr 02:00:00:00:00:02 dev back",
        f"route add default via {_GATEWAY4}",
        f"route add default via {_GATEWAY6}",
    )
    return lb


@contextmanager
def made(lab: Lab) -> Iterator[Bed]:
    """Build the bed, have the calling thread in its namespace, and remove everything afterwards."""
    lb = _build(lab)
    with inside(lb):
        data_plane = BpfDataPlane.open(DataPlaneSettings())
        try:
            data_plane.apply(
                (
                    *_rule(1, VIP4, WEB),
                    *_rule(2, VIP6, WEB),
                    *_rule(3, VIP4, DNS, udp=True),
                    *_rule(4, VIP4, FULLNAT, mode=Mode.FULLNAT),
                )
            )
            yield Bed(data_plane=data_plane, front=device(lb, "front"), back=device(lb, "back"))
        finally:
            data_plane.destroy()

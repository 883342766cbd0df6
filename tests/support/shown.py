# SPDX-License-Identifier: Apache-2.0
"""The rules and flows of the recorded original, as values of the model."""

from ipaddress import ip_address, ip_network
from typing import Any

from loxilb.model import Counter, Endpoint, Flow, FlowState, L4Protocol, Mode, Selection, Service, ServiceKey
from loxilb.ports import EndpointView, ServiceStatus

_THREE = ("31.31.31.1", "32.32.32.1", "33.33.33.1")
_THREE_V6 = ("4ffe::1", "5ffe::1", "6ffe::1")


def rule(
    vip: str,
    endpoints: tuple[str, ...] = _THREE,
    *,
    udp: bool = False,
    port: int = 2020,
    port_max: int = -1,
    target: int = 8080,
    weights: tuple[int, ...] = (1, 1, 1),
    counters: tuple[str, ...] = (),
    **more: Any,
) -> ServiceStatus:
    """Build one recorded rule; counters are ``packets:bytes``."""
    protocol = L4Protocol.UDP if udp else L4Protocol.TCP
    key = ServiceKey(address=ip_address(vip), protocol=protocol, port=port, port_max=port_max)
    places = tuple(
        Endpoint(address=ip_address(text), port=target, weight=weight)
        for text, weight in zip(endpoints, weights, strict=False)
    )
    seen = [Counter(packets=int(p), bytes=int(b)) for p, b in (text.split(":") for text in counters)]
    return ServiceStatus(
        service=Service(key=key, endpoints=places, **more),
        endpoints=tuple(
            EndpointView(endpoint=place, counter=counter)
            for place, counter in zip(places, [*seen, *[Counter()] * len(places)], strict=False)
        ),
    )


RULES = (
    rule("2001::1", _THREE_V6),
    rule("2001::1", _THREE_V6, udp=True),
    rule("20.20.20.8", selection=Selection.PERSIST),
    rule("20.20.20.7", selection=Selection.LC),
    rule("20.20.20.6", mode=Mode.FULLNAT, monitor=True),
    rule("20.20.20.5", mode=Mode.ONEARM, inactive_timeout=30),
    rule("20.20.20.4", ("31.31.31.1",), port=8080, mode=Mode.DSR, selection=Selection.HASH),
    rule("20.20.20.3", _THREE[:2], weights=(80, 20), selection=Selection.PRIORITY),
    rule("20.20.20.2", port=1000, port_max=2000, name="ranged"),
    rule("20.20.20.1", udp=True, counters=("1:32",)),
    rule("20.20.20.1", counters=("6:231", "11:423")),
)
WIDE_RULES = (
    *RULES[-5:],
    rule(
        "20.20.20.5",
        ("31.31.31.1",),
        mode=Mode.ONEARM,
        monitor=True,
        allowed_sources=(ip_network("10.10.10.0/24"),),
    ),
)


def flow(arrives: str, leaves: str, seen: str, *, reply: bool = False, **more: Any) -> Flow:
    """Build a flow; a side is ``source,port,destination,port``, ``seen`` is ``packets:bytes``."""
    source, source_port, destination, destination_port = arrives.split(",")
    new_source, new_source_port, new_destination, new_destination_port = leaves.split(",")
    packets, size = map(int, seen.split(":"))
    values: dict[str, Any] = {"protocol": 6, "state": FlowState.ESTABLISHED, "mode": Mode.DEFAULT} | more
    return Flow(
        source=ip_address(source),
        destination=ip_address(destination),
        source_port=int(source_port),
        destination_port=int(destination_port),
        new_source=ip_address(new_source),
        new_destination=ip_address(new_destination),
        new_source_port=int(new_source_port),
        new_destination_port=int(new_destination_port),
        reply=reply,
        rule=1,
        endpoint=1,
        idle=0.0,
        age=0.0,
        counter=Counter(packets=packets, bytes=size),
        **values,
    )


_UDP: dict[str, Any] = {"protocol": 17, "state": FlowState.TWO_WAY}
_V4, _V6, _EP = "10.10.10.1", "3ff0::1", "31.31.31.1"
FLOWS = (
    flow(f"{_V4},37128,20.20.20.1,2020", f"{_V4},37128,{_EP},8080", "4:181"),
    flow(f"{_EP},8080,{_V4},37128", f"20.20.20.1,2020,{_V4},37128", "3:150", reply=True),
    flow(f"{_V4},41294,20.20.20.1,2020", f"{_V4},41294,{_EP},8080", "1:44", **_UDP),
    flow(f"{_EP},8080,{_V4},41294", f"20.20.20.1,2020,{_V4},41294", "1:52", reply=True, **_UDP),
    flow(f"{_V4},50794,20.20.20.5,2020", f"31.31.31.254,50794,{_EP},8080", "4:181", mode=Mode.ONEARM),
    flow(
        f"{_EP},8080,31.31.31.254,50794",
        f"20.20.20.5,2020,{_V4},50794",
        "3:152",
        reply=True,
        mode=Mode.ONEARM,
    ),
    flow(f"{_V4},53256,20.20.20.6,2020", f"20.20.20.6,53256,{_EP},8080", "4:181", mode=Mode.FULLNAT),
    flow(f"{_EP},8080,20.20.20.6,53256", f"20.20.20.6,2020,{_V4},53256", "3:150", reply=True, mode=Mode.FULLNAT),
    flow(f"{_V6},44530,2001::1,2020", f"{_V6},44530,4ffe::1,8080", "4:221"),
    flow(f"4ffe::1,8080,{_V6},44530", f"2001::1,2020,{_V6},44530", "3:160", reply=True),
)

# SPDX-License-Identifier: Apache-2.0
"""Conversions between the wire and the model."""

import json
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_interface, ip_network
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from loxiapi.decode import decode_body
from loxiapi.wire import AllowedSource, ConntrackEntry, LoadBalancerEntry, SecondaryAddress, encode
from loxilb.codec.conntrack import ConntrackEncoder
from loxilb.codec.documents import documents_of
from loxilb.codec.rules import body_of, entry_of, service_of
from loxilb.errors import Conflict, InvalidRequest, KernelError, LoxilbError, NotBuilt, NotFound
from loxilb.kernel.fake.columns import columns_of
from loxilb.model import (
    Counter,
    Endpoint,
    Flow,
    FlowState,
    IPAddress,
    L4Protocol,
    LinkKind,
    LossPolicy,
    Mode,
    Port,
    Probe,
    Selection,
    Service,
    ServiceKey,
)
from loxilb.model.port import IfIndex
from loxilb.ports import EndpointView, ServiceStatus
from loxilb.services.api.failures import failure_of, status_of
from loxilb.services.api.observed import ports_of
from tests.support.services import service
from tests.support.shown import flow

_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
_FURTHER = tuple(map(ip_address, ("198.51.100.1", "198.51.100.2", "198.51.100.3")))
_V4 = st.integers(0x01000000, 0x7FFFFFFF).map(IPv4Address)
_V6 = st.integers(0x2000 << 112, (0x3FFF << 112)).map(IPv6Address)
_PORTS = st.integers(0, 65535)


@st.composite
def _services(draw: st.DrawFn) -> Service:
    """Any service that the model allows."""
    families: list[st.SearchStrategy[IPAddress]] = [_V4, _V6]
    family = draw(st.sampled_from(families))
    protocol = draw(st.sampled_from(L4Protocol))
    ported = protocol is not L4Protocol.ICMP
    port, port_max = sorted((draw(_PORTS), draw(_PORTS))) if ported else (0, 0)
    mode = draw(st.sampled_from([mode for mode in Mode if mode not in (Mode.DSR, Mode.HOSTONEARM)]))
    selections = [one for one in Selection if one is not Selection.N3 or protocol is L4Protocol.UDP]
    selection = draw(st.sampled_from(selections))
    loss = draw(st.sampled_from(LossPolicy))
    kind = draw(st.sampled_from(["", "none", "ping", "tcp", "https"]))
    return Service(
        key=ServiceKey(
            address=draw(family),
            protocol=protocol,
            port=port,
            port_max=port_max,
            block=draw(st.integers(0, 2**32 - 1)),
            host=draw(_TEXT),
        ),
        endpoints=tuple(
            draw(
                st.lists(
                    st.builds(
                        Endpoint,
                        address=family,
                        port=_PORTS if ported else st.just(0),
                        weight=st.integers(0, 65535),
                    ),
                    min_size=1,
                    max_size=5,
                )
            )
        ),
        mode=mode,
        selection=selection,
        persist_timeout=draw(st.integers(0, 86_400)) if selection is Selection.PERSIST else 0,
        half_open_limit=draw(st.sampled_from([0, 1, 1 << 24])),
        inactive_timeout=draw(st.integers(0, 86_400)),
        loss=loss,
        drain_timeout=draw(st.integers(0, 86_400)) if loss is LossPolicy.DRAIN else 0,
        slow_start=draw(st.integers(0, 86_400)) if selection in (Selection.RR, Selection.PRIORITY) else 0,
        name=draw(_TEXT),
        private_address=draw(st.none() | family),
        monitor=draw(st.booleans()),
        bgp=draw(st.booleans()),
        managed=draw(st.booleans()),
        security=draw(st.integers(0, 2)),
        proxy_protocol_v2=draw(st.booleans()) and protocol is L4Protocol.TCP,
        egress=draw(st.booleans()),
        probe=Probe(
            kind=kind,
            port=draw(st.integers(1, 65535)) if kind in ("tcp", "https") else 0,
            request=draw(_TEXT),
            response=draw(_TEXT),
            period=draw(st.integers(0, 86_400)),
            retries=draw(st.integers(0, 86_400)),
        ),
        secondary_addresses=tuple(draw(st.lists(st.sampled_from(_FURTHER), max_size=3, unique=True))),
        allowed_sources=tuple(draw(st.lists(family.map(ip_network), max_size=3))),
    )


@given(_services())
def test_answer_read_as_request_is_the_same_service(service: Service) -> None:
    """Over the wire and back: nothing is lost but what the contract leaves out.

    The timeout is spelt out in answers, and a probe implies watching.
    """
    status = ServiceStatus(service=service, endpoints=tuple(EndpointView(endpoint=one) for one in service.endpoints))
    read = service_of(decode_body(encode(entry_of(status)), LoadBalancerEntry))

    watched = service.monitor or service.probe.kind not in ("", "none")
    assert read == replace(service, inactive_timeout=service.timeout, monitor=watched)


@given(_services())
def test_the_document_of_a_service_is_the_request_that_creates_it(service: Service) -> None:
    """Put together of parts, it has what the request has: no less, and nothing that another service has."""
    body = json.loads(encode(body_of(service)))

    (document,) = documents_of({service.key: service}).values()

    assert document is not None
    assert json.loads(document) == {name: one for name, one in body.items() if one is not None}


def _entry(**arguments: object) -> LoadBalancerEntry:
    base = {"externalIP": "1.1.1.1", "port": 80, "protocol": "udp"} | arguments
    content = {
        "serviceArguments": base,
        "endpoints": [{"endpointIP": "2.2.2.2", "targetPort": 1, "weight": 1}],
    }
    return decode_body(json.dumps(content).encode(), LoadBalancerEntry)


def test_both_numbers_of_n3_are_taken() -> None:
    """7 is n3; 6 is n3 for udp, n2det for sctp and an error for the rest."""
    assert service_of(_entry(sel=7)).selection is Selection.N3
    assert service_of(_entry(sel=6)).selection is Selection.N3
    with pytest.raises(NotBuilt, match="n2det"):
        service_of(_entry(sel=6, protocol="sctp"))
    for number in (6, 7):
        with pytest.raises(InvalidRequest) as caught:
            service_of(_entry(sel=number, protocol="tcp"))
        assert caught.value.code == "non-udp-n3-args error"


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ({"externalIP": ""}, "malformed-service error"),
        ({"externalIP": "fe80::1%eth0"}, "malformed-service error"),
        ({"externalIP": "1.1.1.1/32"}, "malformed-service error"),
        ({"privateIP": "x"}, "malformed-service privateIP error"),
        ({"protocol": ""}, "malformed-proto error"),
        ({"port": -1}, "serv-port-args range error"),
        ({"portMax": 79}, "serv-port-args range error"),
        ({"probetype": "tcp"}, "malformed-service-pport error"),
        ({"persistTimeout": 86_401, "sel": 3}, "service-args error"),
        ({"persistTimeout": 60}, "service-args error"),
        ({"halfOpenLimit": (1 << 24) + 1}, "service-args error"),
        ({"drainTimeout": 60}, "service-args error"),
        ({"drainTimeout": 60, "onEndpointLoss": "keep"}, "service-args error"),
        ({"drainTimeout": 86_401, "onEndpointLoss": "drain"}, "service-args error"),
        ({"slowStart": -1}, "service-args error"),
        ({"slowStart": 10, "sel": 1}, "service-args error"),
        ({"slowStart": 10, "sel": 3}, "service-args error"),
    ],
)
def test_arguments_that_cannot_be(arguments: dict[str, object], code: str) -> None:
    """Each has the code of the contract."""
    with pytest.raises(InvalidRequest) as caught:
        service_of(_entry(**arguments))

    assert caught.value.code == code


@pytest.mark.parametrize(
    ("protocol", "addresses", "code"),
    [
        ("tcp", ["3.3.3.3", "3.3.3.3"], "malformed-secIP error"),
        ("tcp", ["1.1.1.1"], "malformed-secIP error"),
        ("udp", ["0.0.0.0"], "malformed-secIP error"),
        ("sctp", ["3.3.3.3"] * 4, "secondaryIP-args len error"),
        ("sctp", ["3.3.3.3", "2001::1"], "malformed-secIP nat46 error"),
        ("sctp", ["nope"], "malformed-secIP error"),
    ],
)
def test_secondary_addresses_that_cannot_be(protocol: str, addresses: list[str], code: str) -> None:
    """Refused, where the original drops some of them silently."""
    entry = _entry(protocol=protocol)
    secondary = [SecondaryAddress(secondary_ip=text) for text in addresses]
    with pytest.raises(InvalidRequest) as caught:
        service_of(msgspec.structs.replace(entry, secondary_ips=secondary))

    assert caught.value.code == code


def test_bad_source_prefix_is_refused() -> None:
    """A prefix with host bits is taken as its network, anything else refused."""
    entry = _entry()
    sources = [AllowedSource(prefix="10.1.2.3/8")]

    assert service_of(msgspec.structs.replace(entry, allowed_sources=sources)).allowed_sources == (
        ip_network("10.0.0.0/8"),
    )
    for text, cause in (("x", "'x' is no prefix"), ("2001::/16", "cannot reach an IPv4 service")):
        with pytest.raises(InvalidRequest, match=cause) as caught:
            service_of(msgspec.structs.replace(entry, allowed_sources=[AllowedSource(prefix=text)]))
        assert caught.value.code == "rule-allowed-src error"


def test_mapped_address_is_the_ipv4_address() -> None:
    """One service has one key, however its address was written."""
    assert service_of(_entry(externalIP="::ffff:1.1.1.1")).key == service_of(_entry()).key


def shown(one: Flow) -> ConntrackEntry:
    """Return what an answer says of a flow."""
    return msgspec.json.decode(
        ConntrackEncoder({}, compact=True).entries(columns_of([one], 4))[1:], type=ConntrackEntry
    )


@pytest.mark.parametrize(
    ("protocol", "state", "words"),
    [
        (6, FlowState.NONE, "tcp closed"),
        (6, FlowState.SYN_SENT, "tcp sync-sent"),
        (6, FlowState.SYN_RECEIVED, "tcp sync-ack"),
        (6, FlowState.ESTABLISHED, "tcp est"),
        (6, FlowState.CLOSING, "tcp fini"),
        (6, FlowState.TIME_WAIT, "tcp closed-wait"),
        (6, FlowState.RESET, "tcp h/e"),
        (17, FlowState.ONE_WAY, "udp udp-uni"),
        (17, FlowState.TWO_WAY, "udp udp-est"),
        (17, FlowState.RESET, "udp unk"),
        (132, FlowState.SYN_SENT, "sctp init"),
        (132, FlowState.ESTABLISHED, "sctp est"),
        (1, FlowState.ONE_WAY, "icmp req-sent"),
        (58, FlowState.TWO_WAY, "icmp6 bidir"),
        (47, FlowState.TWO_WAY, "47 unk"),
    ],
)
def test_states_are_words_of_the_protocol(protocol: int, state: FlowState, words: str) -> None:
    """Each protocol has words of its own."""
    entry = shown(flow("1.1.1.1,1,2.2.2.2,2", "1.1.1.1,1,3.3.3.3,3", "0:0", protocol=protocol, state=state))

    assert f"{entry.protocol} {entry.state}" == words


@pytest.mark.parametrize(
    ("mode", "reply", "act"),
    [
        (Mode.DEFAULT, False, "dnat-8.8.8.8:8:w0"),
        (Mode.DEFAULT, True, "snat-7.7.7.7:7:w0"),
        (Mode.DSR, False, "ddsr-8.8.8.8:8:w0"),
        (Mode.DSR, True, "sdsr-7.7.7.7:7:w0"),
        (Mode.FULLNAT, False, "fdnat-7.7.7.7,8.8.8.8:8:w0"),
        (Mode.HOSTONEARM, True, "fsnat-7.7.7.7,8.8.8.8:7:w0"),
    ],
)
def test_acts_say_what_is_rewritten(mode: Mode, reply: bool, act: str) -> None:
    """The word, the addresses and the port depend on mode and direction."""
    entry = shown(flow("1.1.1.1,1,2.2.2.2,2", "7.7.7.7,7,8.8.8.8,8", "0:0", mode=mode, reply=reply))

    assert entry.act == act


def test_interfaces_are_converted() -> None:
    """Addresses, masters, kinds and hooks."""
    bridge = Port(index=IfIndex(2), name="br0", kind=LinkKind.BRIDGE, mac=bytes(6), mtu=1500, up=True, carrier=False)
    port = Port(
        index=IfIndex(7),
        name="eth0",
        kind=LinkKind.VETH,
        mac=bytes.fromhex("8ac6b2778cd4"),
        mtu=1500,
        up=True,
        carrier=True,
        master=IfIndex(2),
        addresses=tuple(map(ip_interface, ("11.10.10.254/24", "11.10.10.253/24", "3ff1::2/64", "fe80::1/64"))),
        received=Counter(packets=1, bytes=60),
        hooks=("tc",),
    )
    first, second = ports_of([bridge, port])

    assert encode(second).decode() == (
        '{"portHardwareInformation":{"link":true,"macAddress":"8a:c6:b2:77:8c:d4","master":"br0","mtu":1500,'
        '"rawMacAddress":[138,198,178,119,140,212],"state":true},"portL2Information":{},"portL3Information":'
        '{"IPv4Address":["11.10.10.254/24 (P) 11.10.10.253/24 (S) "],"IPv6Address":["3ff1::2/64 (P) "],'
        '"routed":true},"portName":"eth0","portNo":7,"portSoftwareInformation":{"bpfLoaded":true,"osId":7,'
        '"portActive":true,"portType":9},"portStatisticInformation":{"rxBytes":60,"rxPackets":1},"zone":"root"}'
    )
    assert (first.software.port_type, first.layer3.ipv4, first.layer3.routed) == (16, [""], False)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (NotFound("lbrule not-exists error"), 404),
        (InvalidRequest("no-rule error"), 404),
        (InvalidRequest("lbrule-exists error"), 409),
        (Conflict("lbrule-exist error: cant modify rule egress mode"), 409),
        (Conflict("secIP modify error"), 409),
        (InvalidRequest("malformed-lbep error"), 400),
        (InvalidRequest("rule-hwm error"), 403),
        (InvalidRequest("proxy-proto-v2 not tcp service error"), 500),
        (InvalidRequest("new text"), 400),
        (NotFound("new text"), 404),
        (Conflict("new text"), 409),
        (NotBuilt("not-built error", field="mode"), 501),
        (KernelError("add address", 17, detail="file exists"), 500),
    ],
)
def test_errors_have_the_status_of_the_contract(error: LoxilbError, status: int) -> None:
    """By the text first, by the class where the contract has no text."""
    assert (status_of(error), failure_of(error).code) == (status, status)


PLAIN = service(inactive_timeout=240)
ONE_BY_ONE: list[dict[str, Any]] = [
    {"name": "one"},
    {"inactive_timeout": 17},
    {"mode": Mode.FULLNAT},
    {"selection": Selection.PRIORITY},
    {"selection": Selection.PERSIST, "persist_timeout": 99},
    {"half_open_limit": 3},
    {"loss": LossPolicy.KEEP},
    {"loss": LossPolicy.DRAIN, "drain_timeout": 5},
    {"slow_start": 7},
    {"private_address": ip_address("10.0.0.9")},
    {"monitor": True},
    {"bgp": True},
    {"managed": True},
    {"security": 2},
    {"proxy_protocol_v2": True},
    {"egress": True},
    {"probe": Probe(kind="http", port=81, request="a", response="b", period=3, retries=4), "monitor": True},
    {"secondary_addresses": (ip_address("20.20.20.9"),)},
    {"allowed_sources": (ip_network("10.0.0.0/8"),)},
]


@pytest.mark.parametrize("members", ONE_BY_ONE, ids="-".join)
def test_a_member_of_a_service_is_written_as_that_and_nothing_else(members):
    unusual = replace(PLAIN, **members)

    assert service_of(body_of(unusual)) == unusual
    assert body_of(unusual) != body_of(PLAIN)
    assert service_of(body_of(PLAIN)) == PLAIN


def test_every_member_of_a_service_is_written():
    named = {name for one in ONE_BY_ONE for name in one}

    assert named | {"key", "endpoints"} == {one.name for one in msgspec.structs.fields(Service)}

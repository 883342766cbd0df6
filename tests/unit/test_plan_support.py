# SPDX-License-Identifier: Apache-2.0
"""What cannot be done yet is refused by field and value; the rest is not."""

from ipaddress import ip_address, ip_network

import pytest

from loxilb.errors import NotBuilt
from loxilb.model import L4Protocol, Mode, Probe, Selection
from loxilb.plan import check_supported
from tests.support.services import key, service

REFUSED = {
    "sctp": ("protocol: sctp", service(of=key(protocol=L4Protocol.SCTP))),
    "fullproxy": ("mode: fullproxy", service(mode=Mode.FULLPROXY)),
    "hostonearm": ("mode: hostonearm", service(of=key("0.0.0.0"), mode=Mode.HOSTONEARM)),
    "n2": ("sel: n2", service(selection=Selection.N2)),
    "n3": ("sel: n3", service(of=key(protocol=L4Protocol.UDP), selection=Selection.N3)),
    "nat64": ("endpointIP: IPv4 behind an IPv6 service", service(of=key("2001::1"))),
    "security": ("security: 1", service(security=1)),
    "host": ("host: a.example", service(of=key(host="a.example"))),
    "proxyprotocolv2": ("proxyprotocolv2: true", service(proxy_protocol_v2=True)),
    "egress": ("egress: true", service(egress=True)),
    "probe": ("probetype: sctp", service(probe=Probe(kind="sctp", port=80))),
    "secondary": (
        "secondaryIPs: IPv4 beside an IPv6 service",
        service(("4ffe::1,80",), of=key("2001::1"), secondary_addresses=(ip_address("20.20.20.9"),)),
    ),
}

ACCEPTED = {
    "bgp": service(bgp=True),
    "monitor": service(monitor=True),
    "probe": service(probe=Probe(kind="tcp", port=80)),
    "ping": service(probe=Probe(kind="ping")),
    "probe none": service(probe=Probe(kind="none")),
    "managed": service(managed=True),
    "fullnat": service(mode=Mode.FULLNAT),
    "icmp": service(("31.31.31.1,0",), of=key(port=0, protocol=L4Protocol.ICMP)),
    "ipv6": service(("4ffe::1,80",), of=key("2001::1")),
    "range": service(of=key(port_max=2030)),
    "dsr": service(("31.31.31.1,2020",), mode=Mode.DSR, selection=Selection.HASH),
    "persist": service(selection=Selection.PERSIST, persist_timeout=60),
    "lc": service(selection=Selection.LC),
    "block": service(of=key(block=7)),
    "secondary": service(secondary_addresses=(ip_address("20.20.20.9"),)),
    "sources": service(allowed_sources=(ip_network("10.0.0.0/8"),)),
    "private": service(private_address=ip_address("10.0.0.9")),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_built_is_refused_by_name(name):
    text, refused = REFUSED[name]

    with pytest.raises(NotBuilt) as caught:
        check_supported(refused)
    assert str(caught.value) == f"{text} is not built yet"


@pytest.mark.parametrize("name", ACCEPTED)
def test_what_is_built_is_accepted(name):
    check_supported(ACCEPTED[name])

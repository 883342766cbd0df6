# SPDX-License-Identifier: Apache-2.0
"""Names of endpoints, and what is checked."""

from ipaddress import ip_address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loxilb.errors import InvalidRequest, NotBuilt
from loxilb.model import L4Protocol, Mode, Probe
from loxilb.model.probe import EndpointKey, HealthCheck, MonitoredEndpoint, ProbeKind, kind_of
from loxilb.plan import checks_of
from tests.support.services import key, service

ADDRESS = ip_address("31.31.31.1")
PLAIN = ("31.31.31.1,8080",)


@settings(deadline=None)
@given(st.ip_addresses(), st.sampled_from(["ping", "tcp", "udp", "sctp"]), st.integers(0, 65_535))
def test_a_key_is_read_from_its_written_form(address, word, port):
    one = EndpointKey(address, word, port)

    assert EndpointKey.parse(one.name) == one


@pytest.mark.parametrize(
    "name", ["", "web", "1.1.1.1", "1.1.1.1_tcp", "1.1.1.1_http_80", "x_tcp_80", "1.1.1.1_tcp_", "1.1.1.1_tcp_-1"]
)
def test_other_names_are_no_keys(name):
    assert EndpointKey.parse(name) is None


def test_the_name_is_made_up_where_none_is_given():
    check = HealthCheck(kind=ProbeKind.TCP, port=80)

    assert MonitoredEndpoint(address=ADDRESS, check=check).name == "31.31.31.1_tcp_80"
    assert MonitoredEndpoint(address=ADDRESS, check=check, name="web").name == "web"
    assert MonitoredEndpoint(address=ADDRESS, check=check, name="4ffe:0::1_udp_53").name == "4ffe::1_udp_53"


def test_zero_is_the_default():
    check = HealthCheck(kind=ProbeKind.PING, period=0, retries=0)

    assert (check.period, check.retries) == (60, 2)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ({"retries": 101}, "host-args error"),
        ({"retries": -1}, "host-args error"),
        ({"period": 86_401}, "host-args error"),
        ({"port": 65_536}, "host-args error"),
        ({"kind": ProbeKind.TCP}, "host-args unknown probe port"),
        ({"kind": ProbeKind.UDP}, "host-args unknown probe port"),
    ],
)
def test_what_cannot_be_is_refused(arguments, code):
    with pytest.raises(InvalidRequest) as caught:
        HealthCheck(**arguments)
    assert caught.value.code == code


def test_sctp_is_refused_by_name():
    with pytest.raises(NotBuilt, match="sctp is not built yet"):
        HealthCheck(kind=ProbeKind.SCTP, port=80)


@pytest.mark.parametrize("address", ["0.0.0.0", "224.0.0.1", "::"])
def test_a_host_is_one_host(address):
    with pytest.raises(InvalidRequest) as caught:
        MonitoredEndpoint(address=ip_address(address), check=HealthCheck())
    assert caught.value.code == "host-parse error"


def test_unknown_words_are_refused():
    assert kind_of("https") is ProbeKind.HTTPS
    for word in ("", "icmp", "TCP"):
        with pytest.raises(InvalidRequest) as caught:
            kind_of(word)
        assert caught.value.code == "host-args unknown probe type"


@pytest.mark.parametrize(
    ("arguments", "kind", "port"),
    [
        ({"monitor": True}, ProbeKind.TCP, 8080),
        ({"monitor": True, "of": key(protocol=L4Protocol.UDP)}, ProbeKind.PING, 0),
        ({"mode": Mode.ONEARM}, ProbeKind.TCP, 8080),
        ({"mode": Mode.FULLNAT}, ProbeKind.TCP, 8080),
        ({"monitor": True, "probe": Probe(kind="tcp", port=9)}, ProbeKind.TCP, 9),
        ({"monitor": True, "probe": Probe(kind="ping")}, ProbeKind.PING, 0),
        ({"monitor": True, "probe": Probe(kind="http")}, ProbeKind.HTTP, 8080),
        ({"monitor": True, "probe": Probe(kind="https", port=443)}, ProbeKind.HTTPS, 443),
    ],
)
def test_a_service_says_how_its_endpoints_are_checked(arguments, kind, port):
    (check,) = checks_of(service(PLAIN, **arguments)).values()

    assert (check.kind, check.port) == (kind, port)


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"mode": Mode.FULLNAT, "probe": Probe(kind="none")},
        {"monitor": True, "probe": Probe(kind="none")},
        {"probe": Probe(kind="tcp", port=9)},
    ],
)
def test_a_service_may_want_no_checks(arguments):
    """Only the flag or the mode ask for them, and type none overrules both."""
    assert checks_of(service(PLAIN, **arguments)) == {}


def test_the_numbers_of_the_service_are_taken():
    probe = Probe(kind="http", request="/up", response="ok", period=5, retries=1_000)
    ((name, check),) = checks_of(service(PLAIN, monitor=True, probe=probe)).items()

    assert name == EndpointKey(ADDRESS, "tcp", 8080)
    assert (check.request, check.response, check.period, check.retries) == ("/up", "ok", 5, 100)


def test_an_endpoint_without_a_port_is_pinged():
    """ICMP has none; a TCP endpoint with port 0 cannot be connected to."""
    icmp = service(("31.31.31.1,0",), of=key(port=0, protocol=L4Protocol.ICMP), monitor=True)
    tcp = service(("31.31.31.1,0",), monitor=True)

    assert checks_of(icmp) == {EndpointKey(ADDRESS, "ping", 0): HealthCheck(kind=ProbeKind.PING)}
    assert checks_of(tcp) == {EndpointKey(ADDRESS, "tcp", 0): HealthCheck(kind=ProbeKind.PING)}

# SPDX-License-Identifier: Apache-2.0
"""A trace through the API and the command line, over a kernel in memory."""

import asyncio
import json
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address, ip_interface

import pytest
from structlog.testing import capture_logs

from loxilb.errors import InvalidRequest
from loxilb.kernel.fake import FakeDataPlane, FakeLinks, FakeVipHost
from loxilb.model import L4Protocol, LinkKind, Port
from loxilb.model.packet import Headers, MadePacket
from loxilb.model.port import IfIndex
from loxilb.model.trace import HookTrace, Table, Traced, Verdict, Way
from loxilb.services.config import ConfigurationService
from loxilb.services.store import SqliteStore
from loxilb.services.trace import TraceService
from tests.support.api import LiveApi, live_api
from tests.support.cli import Cli
from tests.support.services import key, service

CLIENT, VIP = ip_address("10.10.10.1"), ip_address("20.20.20.1")
ETH0 = Port(
    index=IfIndex(2),
    name="eth0",
    kind=LinkKind.VETH,
    mac=b"\2" * 6,
    mtu=1500,
    up=True,
    carrier=True,
    addresses=(ip_interface("10.10.10.254/24"),),
)
BRIDGED = replace(ETH0, index=IfIndex(3), name="port0", master=IfIndex(2), addresses=())
BARE = replace(ETH0, index=IfIndex(4), name="eth1", addresses=(ip_interface("11.0.0.1/24"),))
TUNNEL = replace(ETH0, index=IfIndex(5), name="tun0", mac=b"", addresses=())
HOOKS = {ETH0.index: ("tcx",), TUNNEL.index: ("tcx",)}
WEB = service(("31.31.31.1,8080", "32.32.32.1,8080"), of=key("20.20.20.1", 80), name="web")
NAMED = ["trace", "tcp", "10.10.10.1:4000", "20.20.20.1:80"]


class Kernel(FakeDataPlane):
    """Shows what a test wants shown, where it does."""

    shown: Traced | None = None
    port: Port | None = None

    def trace(self, made: MadePacket, port: Port) -> Traced:
        """Note the interface."""
        self.port = port
        return self.shown or super().trace(made, port)


@pytest.fixture
def kernel() -> Kernel:
    """The data plane."""
    return Kernel()


@pytest.fixture
def links() -> FakeLinks:
    """The interfaces."""
    made = FakeLinks()
    made.interfaces = [ETH0, BRIDGED, BARE, TUNNEL]
    return made


@pytest.fixture
def configuration(kernel: Kernel, links: FakeLinks) -> Iterator[ConfigurationService]:
    """One service of two endpoints."""
    made = ConfigurationService(
        data_plane=kernel, vip_host=FakeVipHost(), links=links, store=SqliteStore.open(None), hooks=HOOKS
    )
    with capture_logs():
        asyncio.run(made.start())
        asyncio.run(made.put(WEB))
    yield made
    made.close()


@pytest.fixture
def tracer(kernel: Kernel, links: FakeLinks, configuration: ConfigurationService) -> TraceService:
    """The service over them."""
    return TraceService(tracer=kernel, ways=links, configuration=configuration, owners=configuration)


@pytest.fixture
def api(kernel: Kernel, links: FakeLinks, configuration: ConfigurationService) -> Iterator[LiveApi]:
    """A live server over them."""
    with live_api(configuration, data_plane=kernel, ways=links) as live:
        yield live


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    """The command line in this process."""
    return Cli(capsys)


def packet(source: str = "10.10.10.1", port: int = 80) -> MadePacket:
    """Return a SYN for the service, or beside it."""
    return MadePacket(
        protocol=L4Protocol.TCP,
        source=ip_address(source),
        source_port=4000,
        destination=VIP,
        destination_port=port,
    )


def test_a_trace_is_told_in_lines(cli: Cli, api: LiveApi) -> None:
    """What a new flow would get, and again, since nothing has changed."""
    port = f"--port={api.address[1]}"
    expected = """\
packet     tcp 10.10.10.1:4000 > 20.20.20.1:80 [S] ttl 64, in by eth0
tc         forwarded  forward_new; slow path: service found, endpoint chosen, flow opened
rule       web, 20.20.20.1:80 tcp
endpoint   31.31.31.1:8080
rewritten  tcp 10.10.10.1:4000 > 31.31.31.1:8080 [S] ttl 64, 00:00:00:00:00:00 > 00:00:00:00:00:00
next hop   eth0, neighbour 00:00:00:00:00:00
"""

    assert cli(*NAMED, port) == cli(*NAMED, "--iface", "port0", port) == (0, expected, "")


def test_a_flow_in_use_is_told(cli: Cli, api: LiveApi, kernel: Kernel) -> None:
    """Which table it is in, its state, and that the plain path serves it."""
    (listener,) = kernel.observe().listeners
    kernel.connect(listener, CLIENT, 4000)

    code, text, _ = cli(*NAMED, "--flags", "A", f"--port={api.address[1]}")

    assert (code, "forward_established; plain path: flow found in the large table" in text) == (0, True)
    assert "flow       established, from the client, large table, idle 0.0 s, age 0.0 s\n" in text


def test_json_has_every_member(cli: Cli, api: LiveApi) -> None:
    """For programs; members that say nothing are left out at the top."""
    code, text, _ = cli("trace", "icmp", "10.10.10.1", "20.20.20.1:9", "-o", "json", f"--port={api.address[1]}")
    found = json.loads(text)

    assert (code, found["verdict"], found["reason"], "sent" in found) == (0, "passed", "pass_not_service", False)
    assert (found["packet"]["sourcePort"], found["packet"]["destinationPort"]) == (0, 9)
    assert found["hooks"][0]["step"].startswith("listeners: ")


ANSWERED = HookTrace(hook="tc", verdict=Verdict.ANSWERED, reason="answer_reset", cause="drop_not_syn")
RESOLVED = HookTrace(hook="tc", verdict=Verdict.FORWARDED, reason="forward_resolve")
HEADERS = Headers(source_mac=b"\1" * 6, destination_mac=b"\2" * 6, protocol=58, source=ip_address("::1"), source_port=7)


@pytest.mark.parametrize(
    ("traced", "lines"),
    [
        (
            Traced(hooks=(ANSWERED,), made=HEADERS, sent=HEADERS, untraced=("xdp",)),
            [
                "xdp        cannot be traced at this interface",
                "tc         answered   answer_reset (drop_not_syn); slow path: no flow; the packet may not open one; "
                "answered by a TCP reset",
                "answer     icmp [::1]:7 >  ttl 0",
            ],
        ),
        (
            Traced(
                hooks=(RESOLVED,),
                made=HEADERS,
                sent=HEADERS,
                table=Table.HALF_OPEN,
                way=Way(interface=ETH0.index, gateway=ip_address("10.10.10.9")),
            ),
            [
                "tc         forwarded  forward_resolve; slow path: flow found in the half-open table; "
                "neighbour not resolved, handed to the stack",
                "rewritten  icmp [::1]:7 >  ttl 0",
                "next hop   eth0, neighbour 10.10.10.9 not resolved, handed to the stack",
            ],
        ),
    ],
    ids=["answered", "unresolved"],
)
def test_what_else_can_become_of_a_packet(
    cli: Cli, api: LiveApi, kernel: Kernel, traced: Traced, lines: list[str]
) -> None:
    """No MAC addresses where they were made up, or are not known yet."""
    kernel.shown = traced

    _, text, _ = cli(*NAMED, f"--port={api.address[1]}")

    assert text.splitlines()[1:] == lines


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ([], "trace needs tcp|udp|icmp SRC DST"),
        (["sctp", "1.1.1.1:1", "2.2.2.2:2"], "trace needs tcp|udp|icmp SRC DST"),
        (["tcp", "1.1.1.1", "2.2.2.2:2"], "SRC '1.1.1.1': a port is needed, as in 1.1.1.1:PORT"),
        (["tcp", "1.1.1.1:1", "3ffe::1"], "DST '3ffe::1': a port is needed, as in [3ffe::1]:PORT"),
        (["udp", "1.1.1.1:x", "2.2.2.2:2"], "SRC '1.1.1.1:x': 'x' is not a number within 1 to 65535"),
        (["udp", ":1", "2.2.2.2:2"], "SRC ':1': there is no address in it"),
        (["tcp", "no:1", "20.20.20.1:2"], "sourceIP: 'no' is not an IP address"),
        (["tcp", "1.1.1.1:1", "[3ffe::1]:2"], "destinationIP: not of the IP version of sourceIP"),
        (["icmp", "1.1.1.1:1", "2.2.2.2:2"], "destinationPort: an echo has one identifier"),
        (["tcp", "1.1.1.1:1", "2.2.2.2:2", "--flags", "X"], "flags: X is no TCP flag"),
        (["udp", "1.1.1.1:1", "2.2.2.2:2", "--flags", "S"], "flags: udp has none"),
        (["tcp", "1.1.1.1:1", "2.2.2.2:2"], "sourceIP: no interface leads to 1.1.1.1 (name the interface"),
        (["tcp", "10.10.10.254:1", "2.2.2.2:2"], "sourceIP: no interface leads to 10.10.10.254"),
        (["tcp", "11.0.0.2:1", "2.2.2.2:2"], "interface: eth1 is not one that the daemon has taken"),
        (["tcp", "1.1.1.1:1", "2.2.2.2:2", "--iface", "eth9"], "interface: there is no interface eth9"),
        (["tcp", "1.1.1.1:1", "2.2.2.2:2", "--iface", "tun0"], "interface: tun0 carries no Ethernet frames"),
    ],
)
def test_what_cannot_be_traced_is_refused_by_name(cli: Cli, api: LiveApi, arguments: list[str], error: str) -> None:
    """The argument or the field, and what is wrong with it."""
    code, out, errors = cli("trace", *arguments, f"--port={api.address[1]}")

    assert (code, out, error in errors) == (1, "", True), errors


def test_a_port_of_a_bridge_is_traced_at_the_bridge(tracer: TraceService, kernel: Kernel) -> None:
    """That is where its packets meet the programs."""
    asyncio.run(tracer.trace(packet(), interface="port0"))

    assert kernel.port is not None
    assert (kernel.port.name, kernel.port.hooks) == ("eth0", ("tcx",))


def test_the_service_that_is_met_is_told(tracer: TraceService) -> None:
    """Of a packet for none, there is none."""
    met = asyncio.run(tracer.trace(packet())).service

    assert met is not None
    assert met.key == WEB.key
    assert asyncio.run(tracer.trace(packet(port=81))).service is None
    with pytest.raises(InvalidRequest, match="no interface leads to"):
        asyncio.run(tracer.trace(packet("99.0.0.1")))

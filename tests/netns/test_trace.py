# SPDX-License-Identifier: Apache-2.0
"""A trace before and after real connections: what it says is what they get."""

import json
from typing import Any

import pytest

from tests.support.lab_star import PORT, SERVERS4, SERVERS6, Star, evenly
from tests.support.traffic import ask_on, connection

pytestmark = pytest.mark.must_run
FAMILIES = [("20.20.20.1", "10.10.10.1", SERVERS4), ("2001::1", "3ffe::1", SERVERS6)]
NAMES = ["server1", "server2", "server3"]


def end(address: str, port: int) -> str:
    """Return an address and a port as the command line takes them."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def trace(star: Star, source: str, destination: str, *more: str) -> Any:
    """Trace a TCP segment and return what the command line tells programs."""
    return json.loads(star.lb.loxicmd(" ".join(("trace tcp", source, destination, "-o json -t 60", *more))))


@pytest.mark.parametrize(("vip", "client", "servers"), FAMILIES, ids=["ipv4", "ipv6"])
def test_a_trace_is_what_connections_get(star: Star, vip: str, client: str, servers: tuple[str, ...]) -> None:
    """The endpoint of the next one, before and while there are connections; and the way back."""
    star.lb.create(vip, f"--tcp=2020:{PORT} --name=web", evenly(servers))
    for server in servers:
        star.lb.namespace.run("ping", "-c1", "-W2", server)  # their neighbours are known
    before = trace(star, end(client, 40000), end(vip, 2020))
    assert before == trace(star, end(client, 40000), end(vip, 2020), "--iface eclient -t 60")

    def connected() -> tuple[str, int, dict[str, Any], dict[str, Any], str]:
        with connection(vip, 2020, timeout=30) as sock:
            name = ask_on(sock).server
            port: int = sock.getsockname()[1]
            used = trace(star, end(client, port), end(vip, 2020), "--flags A")
            back = trace(star, end(servers[0], PORT), end(client, port), "--flags A")
            return name, port, used, back, ask_on(sock).server

    name, port, used, back, again = star.client.call(connected)
    following = trace(star, end(client, 40000), end(vip, 2020))

    assert (before["verdict"], before["reason"], before["interface"]) == ("forwarded", "forward_new", "eclient")
    assert before["service"] | {"portMax": 0} == {
        "name": "web",
        "externalIP": vip,
        "port": 2020,
        "portMax": 0,
        "protocol": "tcp",
    }
    assert [hook["hook"] for hook in before["hooks"]] in (["tc"], ["xdp"])
    assert NAMES[servers.index(before["endpoint"]["endpointIP"])] == name == again
    assert (before["sent"]["destinationIP"], before["sent"]["ttl"]) == (servers[0], 63)
    assert before["nextHop"] == {"interface": "eserver1", "mac": star.servers[0].mac("eth0").hex(":"), "gateway": ""}
    assert (used["reason"], used["flow"]["state"], used["endpoint"]) == (
        "forward_established",
        "established",
        before["endpoint"],
    )
    assert used["hooks"][0]["step"] == "plain path: flow found in the large table"
    assert (back["reason"], back["flow"]["reply"], back["sent"]["sourceIP"]) == ("forward_established", True, vip)
    assert (back["sent"]["destinationPort"], back["nextHop"]["interface"]) == (port, "eclient")
    assert following["endpoint"]["endpointIP"] == servers[1]
    assert star.names(vip, 2020, 1) == NAMES[1:2]


def test_what_is_not_served_is_explained_in_words(star: Star) -> None:
    """No service; a service without a flow for the segment; a client that is not allowed."""
    star.lb.create("20.20.20.1", f"--tcp=2020:{PORT} --sources=10.10.10.0/24", evenly(SERVERS4[:1]))
    lines = {
        port: star.lb.loxicmd(f"trace tcp {source}:40000 20.20.20.1:{port} --flags {flags} --iface eclient -t 60")
        for source, port, flags in (("10.10.10.1", 2021, "S"), ("10.10.10.1", 2020, "A"))
    }
    refused = star.lb.loxicmd("trace tcp 11.0.0.1:40000 20.20.20.1:2020 --iface eclient -t 60")

    assert "pass_not_service; listeners: no flow, and no service at this address and port" in lines[2021]
    assert "answer_reset (drop_not_syn); slow path: no flow; the packet may not open one" in lines[2020]
    assert "drop_source; allowed sources: the client is not among them" in refused

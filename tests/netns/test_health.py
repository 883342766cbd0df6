# SPDX-License-Identifier: Apache-2.0
"""Endpoints that fail and come back, on real traffic."""

import http.client
import json
import socket
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from typing import Any

import pytest

from tests.support.lab import ROOT, Lab, Namespace, Process, wait_for
from tests.support.lab_star import PORT, SERVERS4, SERVERS6, Star
from tests.support.traffic import ask, ask_on, connection

pytestmark = pytest.mark.must_run
VIP4, VIP6 = "20.20.20.1", "2001::1"
OWN = 9090
NAMES = ["server1", "server2", "server3"]
FAMILIES = pytest.mark.parametrize(("vip", "servers"), [(VIP4, SERVERS4), (VIP6, SERVERS6)], ids=["ipv4", "ipv6"])
# A period of 1 s, two probes of at most 1 s that fail, and room for a busy machine.
NOTICED_S = 8.0


def rest(star: Star, method: str, path: str, body: dict[str, Any] | None = None, *, status: int = 200) -> Any:
    """Send one request to the daemon from its own namespace and check the status."""

    def send() -> tuple[int, bytes]:
        api = http.client.HTTPConnection("127.0.0.1", 11111, timeout=5)
        try:
            headers = {"Content-Type": "application/json"}
            api.request(method, f"/netlox/v1{path}", json.dumps(body) if body else None, headers)
            answer = api.getresponse()
            return answer.status, answer.read()
        finally:
            api.close()

    got, content = star.lb.namespace.call(send)
    assert got == status, content
    return json.loads(content)


def states(star: Star) -> dict[str, str]:
    """Return the state of each endpoint of every rule, by address."""
    rules = rest(star, "GET", "/config/loadbalancer/all")["lbAttr"]
    return {one["endpointIP"]: one["state"] for rule in rules for one in rule["endpoints"]}


def becomes(star: Star, address: str, state: str) -> None:
    """Wait until an endpoint has a state."""
    wait_for(lambda: states(star)[address] == state, deadline=NOTICED_S, what=f"{address} {state}: {states(star)}")


def put_rule(star: Star, vip: str, servers: tuple[str, ...], **arguments: object) -> None:
    """Create a rule over REST, watched every second."""
    wanted = {"externalIP": vip, "port": 2020, "protocol": "tcp", "probeTimeout": 1, "monitor": True} | arguments
    port = OWN if wanted["port"] == 2020 else PORT
    endpoints = [{"endpointIP": one, "targetPort": port, "weight": 1} for one in servers]
    rest(star, "POST", "/config/loadbalancer", {"serviceArguments": wanted, "endpoints": endpoints})


def clear_endpoints(star: Star) -> None:
    """Forget what was told about endpoints."""
    for one in rest(star, "GET", "/config/endpoint/all")["Attr"]:
        rest(star, "DELETE", f"/config/endpoint/epipaddress/{one['hostName']}?name={one['name']}")


@pytest.fixture
def watched(star: Star) -> Iterator[Star]:
    """Return the topology; what is told about endpoints is forgotten after the test."""
    yield star
    star.lb.clear()
    clear_endpoints(star)


def serve(lab: Lab, namespace: Namespace, name: str) -> Process:
    """Start a server that the test may end."""
    process = lab.process(namespace, ROOT / ".venv/bin/python", "-m", "tests.support.traffic", name, str(OWN))
    process.wait_line("serves", deadline=20)
    return process


@pytest.fixture
def own_servers(watched: Star) -> Iterator[list[Process]]:
    """Return a server for each server namespace on a port of its own."""
    pairs = zip(watched.servers, NAMES, strict=True)
    servers = [serve(watched.lab, namespace, name) for namespace, name in pairs]
    yield servers
    for process in servers:
        process.stop()


@FAMILIES
@pytest.mark.parametrize("kind", ["tcp", "http", "udp"])
def test_a_server_that_dies_leaves_and_one_that_returns_comes_back(
    watched: Star, own_servers: list[Process], vip: str, servers: tuple[str, ...], kind: str
) -> None:
    """Connections, requests and datagrams as probes; the rotation follows."""
    put_rule(watched, vip, servers, probetype=kind, probeport=OWN)
    assert watched.names(vip, 2020, 3) == NAMES

    own_servers[0].stop()
    becomes(watched, servers[0], "inactive")
    assert Counter(watched.names(vip, 2020, 6)) == {"server2": 3, "server3": 3}

    own_servers[0] = serve(watched.lab, watched.servers[0], "server1")
    becomes(watched, servers[0], "active")
    assert set(watched.names(vip, 2020, 6)) == set(NAMES)


@FAMILIES
def test_a_host_that_is_gone_is_noticed_by_ping(watched: Star, vip: str, servers: tuple[str, ...]) -> None:
    """Its address is taken away and given back; the delays are shown."""
    put_rule(watched, vip, servers, port=2021, probetype="ping")
    own = f"{servers[0]}/{24 if vip == VIP4 else 64} dev eth0"
    gateway = "31.31.31.254" if vip == VIP4 else "4ffe::2"

    def delays() -> list[str]:
        return [row[7] for row in watched.lb.rows("get ep")[1:]]

    wait_for(lambda: all(delays()), deadline=NOTICED_S, what="answers to pings")
    watched.servers[0].ip(f"addr del {own}")
    try:
        becomes(watched, servers[0], "inactive")
        rows = watched.lb.rows("get ep")
    finally:
        watched.servers[0].ip(f"addr add {own}", f"route replace default via {gateway}")

    assert [row[-1] for row in rows] == ["STATE", "nok", "ok", "ok"]
    assert [row[2] for row in rows[1:]] == ["ping:"] * 3
    assert Counter(watched.names(vip, 2021, 4)) <= Counter({"server2": 2, "server3": 2, "server1": 4})
    becomes(watched, servers[0], "active")


def test_flows_of_a_dead_server_go_elsewhere(watched: Star, own_servers: list[Process]) -> None:
    """One client port: the same flow, until its server is gone."""
    put_rule(watched, VIP4, SERVERS4, protocol="udp", probetype="udp", probeport=OWN)
    assert {watched.ask_datagram(VIP4, 2020, source_port=5555).server for _ in range(3)} == {"server1"}

    own_servers[0].stop()

    def elsewhere() -> bool:
        with suppress(OSError):
            return watched.ask_datagram(VIP4, 2020, source_port=5555).server != "server1"
        return False

    wait_for(elsewhere, deadline=NOTICED_S + 4, what="another server")


def test_red_is_out_of_service_and_yellow_only_drains(watched: Star) -> None:
    """An operator's word counts at once, whatever the probes say."""
    watched.lb.create(VIP4, f"--tcp=2020:{PORT} --monitor", [f"{one}:1" for one in SERVERS4])

    def set_state(state: str) -> None:
        body = {"hostName": SERVERS4[0], "epPort": PORT, "epProto": "tcp", "state": state}
        rest(watched, "POST", "/config/endpointhoststate", body)

    def scene() -> list[object]:
        with connection(VIP4, 2020) as sock:
            first = ask_on(sock).server
            set_state("yellow")
            kept = ask_on(sock).server
            drained = {ask(VIP4, 2020).server for _ in range(6)}
        return [first, kept, drained]

    assert watched.client.call(scene) == ["server1", "server1", {"server2", "server3"}]
    assert states(watched)[SERVERS4[0]] == "active"

    set_state("red")
    assert states(watched)[SERVERS4[0]] == "inactive"
    assert set(watched.names(VIP4, 2020, 6)) == {"server2", "server3"}
    assert [row[-1] for row in watched.lb.rows("get ep")][1] == "red"

    set_state("green")
    assert set(watched.names(VIP4, 2020, 6)) == set(NAMES)


def test_a_connection_ends_when_its_server_is_red(watched: Star) -> None:
    """Not only new ones go elsewhere."""
    watched.lb.create(VIP4, f"--tcp=2020:{PORT}", [f"{one}:1" for one in SERVERS4])

    def shown() -> str:
        return watched.lb.loxicmd("get ct")

    with watched.client.call(partial(socket.create_connection, (VIP4, 2020), 3)) as sock:
        assert ask_on(sock).server == "server1"
        assert "31.31.31.1" in shown()
        rest(watched, "POST", "/config/endpointhoststate", {"hostName": SERVERS4[0], "state": "red"})
        wait_for(lambda: "31.31.31.1" not in shown(), deadline=5, what="flow ended")


def test_without_any_endpoint_the_list_stays(watched: Star) -> None:
    """All red: listed, inactive, and nobody is let through."""
    watched.lb.create(VIP4, f"--tcp=2020:{PORT} --monitor", [f"{one}:1" for one in SERVERS4])
    for address in SERVERS4:
        rest(watched, "POST", "/config/endpointhoststate", {"hostName": address, "state": "red"})

    rows = watched.lb.rows("get lb -o wide")

    assert [row[13] for row in rows] == ["STATE"] + ["inactive"] * 3
    with pytest.raises(OSError):
        watched.ask(VIP4, 2020, timeout=0.5)


def test_endpoints_of_the_command_line(watched: Star, own_servers: list[Process]) -> None:
    """Create, see, be refused while a rule uses it, and delete."""
    name = f"{SERVERS4[1]}_tcp_{OWN}"
    watched.lb.loxicmd(f"create ep {SERVERS4[1]} --probetype=tcp --probeport={OWN} --period=1")
    watched.lb.create(VIP4, f"--tcp=2020:{OWN} --monitor", [f"{one}:1" for one in SERVERS4])
    row = next(row for row in watched.lb.rows("get ep") if row[1] == name)
    assert row == [SERVERS4[1], name, "tcp:", str(OWN), "1", "2", "", "", "", "ok"]

    own_servers[1].stop()
    becomes(watched, SERVERS4[1], "inactive")
    refused = rest(watched, "DELETE", f"/config/endpoint/epipaddress/{SERVERS4[1]}", status=409)
    watched.lb.clear()
    watched.lb.loxicmd(f"delete ep {SERVERS4[1]}")

    assert refused["result"] == "LB Rule-referred"
    assert watched.lb.loxicmd("get ep") == ""


def test_a_service_whose_mode_rewrites_sources_is_probed_unasked(watched: Star, own_servers: list[Process]) -> None:
    """Onearm, and connections through it meanwhile."""
    put_rule(watched, VIP4, SERVERS4, mode=1, monitor=False)
    assert set(watched.names(VIP4, 2020, 6)) == set(NAMES)

    own_servers[2].stop()

    becomes(watched, SERVERS4[2], "inactive")

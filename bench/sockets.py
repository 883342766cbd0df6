# SPDX-License-Identifier: Apache-2.0
"""Cost of connections, requests and bytes with sockets at both ends: direct, loxilb, nft DNAT, haproxy.

Client, load balancer and three servers in namespaces over veth. Every way has namespaces of its own, all there at once,
so rounds interleave at no cost and no state of one way meets another. The client runs on one processor, the servers on
another; for one request after the other all on one, where nothing but the path takes time. Costs are processor time of
client, servers and load balancer per connection, request or byte.
"""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from tests.support.lab import ROOT, Lab, Namespace, run
from tests.support.lab_star import SERVERS4, Star, build, evenly, route_directly

from bench.cpu import Meter
from bench.figures import Figure, ratios
from bench.place import PREFIX, MeasurementError, processors
from bench.rounds import rounds

VIP, PORT = "20.20.20.1", 5000
LABELS = {"direct": "direct routing", "loxilb": "loxilb, TC", "nft": "nft DNAT", "haproxy": "haproxy"}
_TESTS = {
    "close": "CPU a connection",
    "keep": "CPU a request",
    "bulk": "CPU a gigabyte",
    "p50": "time of a request",
}
_MAX_ERRORS = 0.001
_WARM_UP_S = 0.3


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """Rounds over all ways, and seconds of each test."""

    rounds: int
    seconds: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Lane:
    """One way from the client to the servers; ``processes`` serve or balance."""

    star: Star
    addresses: tuple[str, ...]
    processes: tuple[int, ...]
    tool: Path

    def run(self, test: str, seconds: float) -> tuple[float, float]:
        """Run one test; returns CPU nanoseconds and the median of what one took (0 for bulk), per thing counted.

        Raises MeasurementError when more than one in a thousand failed.
        """
        meter = Meter(self.processes)
        command = (str(self.tool), str(processors()[test != "keep"]), test, str(PORT), str(seconds), *self.addresses)
        seen = json.loads(self.star.client.run(*command, timeout=seconds + 20))
        used = meter.read() + seen["cpu_ns"]
        if not seen["count"] or seen["errors"] > seen["count"] * _MAX_ERRORS:
            raise MeasurementError(f"{test}: {seen['count']} done, {seen['errors']} failed")
        return used / seen["count"], seen["p50_ns"]


def compile_tool(folder: Path) -> Path:
    """Compile the traffic tool; raises MeasurementError without a compiler, CommandError when it refuses."""
    compiler = next(filter(None, map(shutil.which, ("cc", "clang", "clang-14", "clang-19"))), None)
    if compiler is None:
        raise MeasurementError("no C compiler: run make install")
    tool = folder / "traffic"
    run([compiler, "-O2", "-Wall", "-Wextra", "-o", str(tool), str(ROOT / "bench" / "traffic.c")])
    return tool


_NFT = f"""
table ip loxb {{
    chain pre {{
        type nat hook prerouting priority -100;
        ip daddr {VIP} tcp dport {PORT} dnat to numgen inc mod 3 map {{ %s }}
    }}
    chain post {{ type nat hook postrouting priority 100; }}
}}
""" % ", ".join(f"{number} : {server}" for number, server in enumerate(SERVERS4))

_HAPROXY = "\n".join(
    (
        "global",
        "    maxconn 9000",
        "    nbthread 2",
        "defaults",
        "    mode tcp",
        "    timeout connect 5s",
        "    timeout client 60s",
        "    timeout server 60s",
        "listen web",
        f"    bind {VIP}:{PORT}",
        "    balance roundrobin",
        *(f"    server s{number} {server}:{PORT}" for number, server in enumerate(SERVERS4)),
        "",
    )
)


def _balance(lab: Lab, way: str, star: Star) -> None:
    """Start the load balancer of one way."""
    lb = star.lb.namespace
    if way == "loxilb":
        star.lb.start("--xdp", "off", "--loglevel", "error")
        star.lb.create(VIP, f"--tcp={PORT}:{PORT}", evenly(SERVERS4))
    elif way == "nft":
        lb.run("nft", "-f", "-", stdin=_NFT)
        lb.sysctl(net__netfilter__nf_conntrack_tcp_timeout_time_wait=2)
    elif way == "haproxy":
        lb.ip(f"addr add {VIP}/32 dev lo")
        lb.sysctl(net__ipv4__ip_local_port_range="1024 65000", net__ipv4__tcp_tw_reuse=1)
        settings = lab.folder / "haproxy.cfg"
        settings.write_text(_HAPROXY)
        lab.process(lb, "haproxy", "-db", "-f", settings)


def _pids(namespace: Namespace) -> tuple[int, ...]:
    return tuple(map(int, run(["ip", "netns", "pids", namespace.name]).split()))


def _lane(lab: Lab, way: str, tool: Path) -> Lane:
    star = build(lab, serve=False)
    star.client.sysctl(net__ipv4__ip_local_port_range="1024 65000")
    star.lb.namespace.sysctl(net__ipv4__ip_forward=1, net__ipv6__conf__all__forwarding=1)
    servers = []
    for namespace in star.servers:
        namespace.sysctl(
            net__ipv4__tcp_max_tw_buckets=0, net__core__somaxconn=4096, net__ipv4__tcp_max_syn_backlog=4096
        )
        servers.append(lab.process(namespace, tool, str(processors()[0]), "serve", str(PORT)))
    for server in servers:
        server.wait_line("serves", deadline=10)
    route_directly(star)
    _balance(lab, way, star)
    return Lane(
        star=star,
        addresses=SERVERS4 if way == "direct" else (VIP,),
        processes=tuple(pid for namespace in (star.lb.namespace, *star.servers) for pid in _pids(namespace)),
        tool=tool,
    )


def _figures(found: Mapping[str, Mapping[str, Sequence[float]]]) -> Iterator[Figure]:
    for test, by_way in found.items():
        unit, scale = ("us", 1e3) if test != "bulk" else ("s/GB", 1.0)
        for way, samples in by_way.items():
            yield Figure(
                key=f"sockets.cost.{test}.{way}",
                label=f"{_TESTS[test]}, {LABELS[way]}",
                unit=unit,
                samples=tuple(sample / scale for sample in samples),
            )
        for way in tuple(by_way)[1:]:
            yield Figure(
                key=f"sockets.ratio.{test}.{way}",
                label=f"{_TESTS[test]}, {LABELS[way]} / direct",
                unit="",
                samples=ratios(by_way[way], by_way["direct"]),
            )


def measure(lab: Lab, effort: Effort, say: Callable[[str], None]) -> Sequence[Figure]:
    """Measure every way; raises MeasurementError when connections fail."""
    with ExitStack() as stack:
        say("sockets: building namespaces")
        tool = compile_tool(lab.folder)
        labs = {way: stack.enter_context(Lab(folder=lab.folder, prefix=PREFIX)) for way in LABELS}
        lanes = {way: _lane(each, way, tool) for way, each in labs.items()}
        for lane in lanes.values():
            for test in effort.seconds:
                lane.run(test, _WARM_UP_S)
        return tuple(_figures(_rounds(lanes, effort, say)))


def _rounds(lanes: Mapping[str, Lane], effort: Effort, say: Callable[[str], None]) -> dict[str, dict[str, list[float]]]:
    """Return what each test found by way, one value a round; what is compared runs right after each other."""
    found: dict[str, dict[str, list[float]]] = {test: {way: [] for way in lanes} for test in _TESTS}
    for number, order in enumerate(rounds(tuple(lanes), effort.rounds)):
        say(f"sockets: round {number + 1} of {effort.rounds}")
        for test, seconds in effort.seconds.items():
            for way in order:
                cost, p50 = lanes[way].run(test, seconds)
                found[test][way].append(cost)
                if test == "keep":
                    found["p50"][way].append(p50)
    return found

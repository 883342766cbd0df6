# SPDX-License-Identifier: Apache-2.0
"""Cost of forwarding when packets arrive as frames: generator, load balancer and sink in namespaces.

A BPF program makes the frames (live frames of BPF_PROG_TEST_RUN), another drops and counts them behind the load
balancer: no socket has a part in it. Every way of forwarding has namespaces of its own, all there at once, so rounds
interleave at no cost.
"""

import struct
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address

from tests.support.lab import Lab, Namespace
from tests.support.lab_star import LoadBalancer

from bench.cpu import Meter
from bench.figures import Figure, ratios
from bench.packet import Frame
from bench.place import Device, MeasurementError, device, inside, pinned, processors
from bench.rounds import rounds
from bench.template import Template, Vary, open_object
from loxilb.kernel.bpf import attach, libbpf, maps, pins
from loxilb.kernel.bpf.object import BpfObject
from loxilb.kernel.bpf.run import run_frames

VIP, SINK, CLIENT = IPv4Address("198.18.255.1"), IPv4Address("198.19.1.2"), IPv4Address("198.18.0.2")
PORT, SINK_PORT = 53, 5353
_FLOWS = 1000
_ARRIVAL_S = 2.0
_TRIES = 4
LABELS = {"route": "kernel routing", "nft": "nft DNAT", "tc": "loxilb, TC", "xdp": "loxilb, XDP"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """Rounds over all ways, runs in each, and frames of each run."""

    rounds: int
    runs: int
    frames: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Lane:
    """Generator, load balancer and sink of one way of forwarding."""

    source: Namespace
    programs: BpfObject
    device: Device
    frame: Frame

    def start(self) -> None:
        """Tell the programs which frames to make and to count."""
        translated = self.frame.destination != SINK
        sink = (SINK, SINK_PORT if translated else self.frame.destination_port)
        Template(frame=bytes(self.frame), vary=Vary.RANDOM, flows=_FLOWS, ifindex=self.device.index, sink=sink).write(
            self.programs
        )

    def arrived(self) -> int:
        """Return the frames that the sink has counted."""
        size = 8 * libbpf.possible_cpus()
        value = maps.lookup(self.programs.maps["arrived"], maps.index_key(0), size) or bytes(size)
        return sum(struct.unpack(f"={size // 8}Q", value))

    def send(self, count: int) -> tuple[float, float]:
        """Send frames; returns CPU nanoseconds a frame and the share that arrived."""
        raw, before, meter = bytes(self.frame), self.arrived(), Meter()
        context = struct.pack("=6I", 0, len(raw), 0, self.device.index, 0, 0)
        with inside(self.source):
            began = time.thread_time_ns()
            run_frames(self.programs.programs["generate"], raw, context=context, repeat=count)
            used = time.thread_time_ns() - began
        self._wait(before + count)
        return (used + meter.read()) / count, (self.arrived() - before) / count

    def _wait(self, wanted: int) -> None:
        """Wait until all have arrived, or no more come."""
        deadline = time.monotonic() + _ARRIVAL_S
        while self.arrived() < wanted and time.monotonic() < deadline:
            time.sleep(0.001)


def _wire(lab: Lab, way: str) -> tuple[Namespace, Namespace, Namespace]:
    """Connect generator, load balancer and sink; the neighbours are known beforehand."""
    source, lb, sink = (lab.namespace(f"{way}-{role}") for role in ("source", "lb", "sink"))
    lab.link(lb, "front", source, "eth0")
    lab.link(lb, "back", sink, "eth0")
    mac = ":".join(f"{byte:02x}" for byte in device(sink, "eth0").mac)
    lb.sysctl(net__ipv4__ip_forward=1, net__ipv4__conf__all__rp_filter=0, net__ipv4__conf__front__rp_filter=0)
    lb.ip(
        "addr add 198.18.0.1/24 dev front",
        "addr add 198.19.1.1/24 dev back",
        f"neigh add {SINK} lladdr {mac} dev back",
        "neigh add 198.18.0.2 lladdr 02:00:00:00:00:02 dev front",
    )
    return source, lb, sink


def _forward(lab: Lab, way: str, lb: Namespace) -> None:
    """Start the load balancer of one way."""
    if way == "nft":
        lb.run("nft", "-f", "-", stdin=_NFT)
    if way != "xdp":  # frames enter a veth only where NAPI runs, which XDP or GRO start
        lb.run("ethtool", "-K", "front", "gro", "on")
    if way in ("xdp", "tc"):
        balancer = LoadBalancer(lab, lb)
        balancer.start("--xdp", "on" if way == "xdp" else "off", "--loglevel", "error")
        balancer.create(str(VIP), f"--udp={PORT}:{SINK_PORT}", [f"{SINK}:1"])


_NFT = f"""
table ip loxb {{
    chain pre {{
        type nat hook prerouting priority -100;
        ip daddr {VIP} udp dport {PORT} dnat to numgen inc mod 1 map {{ 0 : {SINK} }} : {SINK_PORT}
    }}
    chain post {{ type nat hook postrouting priority 100; }}
}}
"""


@contextmanager
def _lane(lab: Lab, way: str) -> Iterator[Lane]:
    source, lb, sink = _wire(lab, way)
    with open_object("bench_frames") as programs:
        with inside(sink):
            directory = pins.PinDirectory(pins.find_bpffs(None))
            directory.create()
            lab.undo(directory.remove)
            index = device(sink, "eth0").index
            # The sink takes what the way hands over: frames from XDP, packets from the others.
            if way == "xdp":
                attach.attach_xdp(directory, index, programs.programs["sink_xdp"])
            else:
                attach.attach_tc(directory, index, programs.programs["sink_tc"])
        _forward(lab, way, lb)
        frame = Frame(
            mac=device(lb, "front").mac,
            source=CLIENT,
            destination=SINK if way == "route" else VIP,
            source_port=1024,
            destination_port=PORT,
            udp=True,
        )
        yield Lane(source=source, programs=programs, device=device(source, "eth0"), frame=frame)


def _round(lane: Lane, way: str, effort: Effort) -> float:
    """Return the smallest cost of the runs of one round; raises MeasurementError when frames are always lost.

    A run in which the softirq thread did not get its turn overruns the queue of a veth; it is made again.
    """
    lane.start()
    costs: list[float] = []
    for _ in range(_TRIES * effort.runs):
        cost, share = lane.send(effort.frames)
        if share == 1.0:
            costs.append(cost)
        if len(costs) == effort.runs:
            return min(costs)
    raise MeasurementError(f"{LABELS[way]}: {share:.4f} of the frames arrived as meant")


def _figures(costs: dict[str, list[float]]) -> Iterator[Figure]:
    for way, samples in costs.items():
        yield Figure(key=f"frames.cost.{way}", label=LABELS[way], unit="ns", samples=tuple(samples))
    for way in ("tc", "xdp"):
        compared = ratios(costs[way], costs["nft"])
        yield Figure(key=f"frames.ratio.{way}", label=f"{LABELS[way]} / nft DNAT", unit="", samples=compared)


def measure(lab: Lab, effort: Effort, say: Callable[[str], None]) -> Sequence[Figure]:
    """Measure every way of forwarding; raises MeasurementError when a way loses frames."""
    with ExitStack() as stack:
        say("live frames: building namespaces")
        lanes = {way: stack.enter_context(_lane(lab, way)) for way in LABELS}
        stack.enter_context(pinned(processors()[1]))
        for lane in lanes.values():  # opens the flows
            lane.start()
            lane.send(effort.frames)
        say("live frames: measuring")
        costs: dict[str, list[float]] = {way: [] for way in LABELS}
        for order in rounds(tuple(LABELS), effort.rounds):
            for way in order:
                costs[way].append(_round(lanes[way], way, effort))
        return tuple(_figures(costs))

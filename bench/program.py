# SPDX-License-Identifier: Apache-2.0
"""Cost of the programs alone: BPF_PROG_TEST_RUN, minus an empty program behind the same restored packet."""

import ctypes
import struct
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from ipaddress import ip_address
from typing import Any

from tests.support.lab import Lab

from bench.bed import DNS, FULLNAT, WEB, Bed, made
from bench.figures import Figure
from bench.packet import SYN, Frame
from bench.place import Device, MeasurementError, pinned, processors
from bench.template import Template, Vary, open_object
from loxilb.kernel import abi
from loxilb.kernel.bpf import maps
from loxilb.kernel.bpf.maps import ArrayView
from loxilb.kernel.bpf.object import BpfObject
from loxilb.kernel.bpf.run import run

HOOKS = ("xdp", "tc")
_MANY = 100_000
_BATCH = 250  # handshakes under way at a time: so few that no window of the half-open table is ever full
_RUNS = 4  # of each sample
_FRESH = 16_384  # new flows a run: they fill half of the half-open table
_FILL = 200_000  # new flows after which every window of the half-open table is full
_SKB_IFINDEX = 40  # offset in struct __sk_buff
_EMPTY, _PIPELINE = 0, 1  # enum of bench_program.bpf.c


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """Samples of each case, and packets of each run of a sample."""

    samples: int
    packets: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One kind of packet; every one of them must leave for ``reason``."""

    key: str
    label: str
    frame: Frame
    device: Device
    reason: abi.Reason
    flows: int = 1
    fresh: bool = False
    opens: bool = False


class Harness:
    """Runs packets through the attached programs or the empty ones, and checks that they went the way meant."""

    def __init__(self, bed: Bed, programs: BpfObject) -> None:
        """Connect the harness to the data plane's programs."""
        self._bed = bed
        self._programs = programs
        self._opened = 0
        for hook, entry in bed.data_plane.programs.items():
            calls = programs.maps[f"calls_{hook}"]
            for at, program in ((_EMPTY, programs.programs[f"{hook}_empty"]), (_PIPELINE, entry)):
                maps.update(calls, maps.index_key(at), struct.pack("=I", program), f"call the {hook} program")

    def run(self, hook: str, what: str, frame: Frame, device: Device, template: Template, packets: int) -> int:
        """Return the mean nanoseconds of one packet, harness included."""
        template.write(self._programs)
        program = self._programs.programs[f"{hook}_{what}{frame.source.version}"]
        raw = bytes(frame)
        return run(
            program, raw, context=_context(hook, len(raw), device), repeat=packets, want_packet=False
        ).nanoseconds

    def establish(self, request: Frame, count: int = 1) -> None:
        """Establish the flows of ``count`` clients."""
        for first in range(0, count, _BATCH):
            batch = min(_BATCH, count - first)
            for frame, device in self._bed.handshake(request):
                template = Template(frame=bytes(frame), vary=Vary.NEXT, first=first, reply=device is self._bed.back)
                self.run("tc", "pipeline", frame, device, template, batch)

    def sample(self, hook: str, case: Case, packets: int) -> float:
        """Measure a case once, net of the harness: the quickest of some short runs less the quickest empty one.

        What disturbs the machine only ever adds time, and seldom to all runs; empty and full ones take turns.
        """
        pairs = [self._pair(hook, case, packets) for _ in range(_RUNS)]
        return min(full for _, full in pairs) - min(empty for empty, _ in pairs)

    def _pair(self, hook: str, case: Case, packets: int) -> tuple[int, int]:
        if case.fresh:
            self._clear_half_open()
        vary = Vary.NEXT if case.opens else Vary.RANDOM if case.flows > 1 else Vary.FIXED
        template = Template(frame=bytes(case.frame), vary=vary, flows=case.flows, first=self._opened)
        empty = self.run(hook, "empty", case.frame, case.device, template, packets)
        before = Counter(self._bed.data_plane.reasons())
        full = self.run(hook, "pipeline", case.frame, case.device, template, packets)
        seen = Counter(self._bed.data_plane.reasons()) - before
        if seen[case.reason.name.lower()] != packets:
            raise MeasurementError(f"{case.key} on {hook}: {packets} packets left as {dict(seen)}")
        self._opened += packets if case.opens else 0
        return empty, full

    def fill(self, case: Case, packets: int) -> None:
        """Open so many flows."""
        template = Template(frame=bytes(case.frame), vary=Vary.NEXT, first=self._opened)
        self.run("tc", "pipeline", case.frame, case.device, template, packets)
        self._opened += packets

    def _clear_half_open(self) -> None:
        data_plane = self._bed.data_plane
        entries, size = data_plane.sizes["half4"], ctypes.sizeof(abi.Whole4)
        view = ArrayView(data_plane.descriptors["half4"], entries=entries, value_size=size, writable=True)
        view.write(0, bytes(entries * view.stride))
        view.close()


def _context(hook: str, length: int, device: Device) -> bytes:
    """Return the start of struct xdp_md or struct __sk_buff with the device the packet arrives on."""
    if hook == "xdp":
        return struct.pack("=6I", 0, length, 0, device.index, 0, 0)
    return bytes(_SKB_IFINDEX) + struct.pack("=I", device.index) + bytes(192 - _SKB_IFINDEX - 4)


def _cases(bed: Bed) -> tuple[Case, ...]:
    """Return all cases; the clients of different cases differ."""
    established, new = abi.Reason.FORWARD_ESTABLISHED, abi.Reason.FORWARD_NEW
    one, six = bed.request("198.18.8.2"), bed.request("2001:2:0:8::2")
    many, syn = bed.request("198.18.16.2"), bed.request("198.18.32.2", flags=SYN)
    datagram, full = bed.request("198.18.8.3", port=DNS, udp=True), bed.request("198.18.8.4", port=FULLNAT)
    routed, closed = replace(one, destination=ip_address("198.51.100.9")), replace(one, destination_port=WEB + 1000)

    def case(key: str, label: str, frame: Frame, reason: abi.Reason = established, **rest: Any) -> Case:
        device = bed.back if frame.mac == bed.back.mac else bed.front
        return Case(key=key, label=label, frame=frame, device=device, reason=reason, **rest)

    return (
        case("established4", "TCP IPv4 established, 1 flow", one),
        case("established6", "TCP IPv6 established, 1 flow", six),
        case("random10k", "TCP IPv4 established, random over 10 k flows", many, flows=_MANY // 10),
        case("random100k", "TCP IPv4 established, random over 100 k flows", many, flows=_MANY),
        case("reply", "TCP IPv4 established, reply direction", bed.answer(one)),
        case("udp", "UDP IPv4 established, 1 flow", datagram),
        case("fullnat", "TCP IPv4 full NAT established, 1 flow", full),
        case("new_fresh", "TCP IPv4 new flow each, half-open table not full", syn, new, opens=True, fresh=True),
        case("new_steady", "TCP IPv4 new flow each, half-open table full", syn, new, opens=True),
        case("not_ours", "not ours, IPv4", routed, abi.Reason.PASS_NOT_SERVICE),
        case("closed_port", "not ours, IPv4, another port of a service address", closed, abi.Reason.PASS_NOT_SERVICE),
    )


def _sample(harness: Harness, hook: str, case: Case, effort: Effort) -> float:
    if case.opens and not case.fresh:
        harness.fill(case, _FILL)
    return harness.sample(hook, case, _FRESH if case.opens else effort.packets)


def _measure(bed: Bed, programs: BpfObject, effort: Effort, say: Callable[[str], None]) -> Iterator[Figure]:
    harness, cases = Harness(bed, programs), _cases(bed)
    for case in cases:
        if case.reason is abi.Reason.FORWARD_ESTABLISHED and case.device is bed.front:
            harness.establish(case.frame, case.flows)
    for hook in HOOKS:
        say(f"program cost, {hook}")
        for case in cases:  # warms caches
            _sample(harness, hook, case, effort)
        # The cases take turns, so that a busy minute of the machine falls on all of them.
        rounds = [[_sample(harness, hook, case, effort) for case in cases] for _ in range(effort.samples)]
        for case, samples in zip(cases, zip(*rounds, strict=True), strict=True):
            label = f"{hook.upper()} {case.label}"
            yield Figure(key=f"program.{hook}.{case.key}", label=label, unit="ns", samples=samples)


def measure(lab: Lab, effort: Effort, say: Callable[[str], None]) -> Sequence[Figure]:
    """Measure every case on both hooks; raises MeasurementError when packets went another way than meant."""
    with made(lab) as bed, open_object("bench_program") as programs, pinned(processors()[1]):
        return tuple(_measure(bed, programs, effort, say))

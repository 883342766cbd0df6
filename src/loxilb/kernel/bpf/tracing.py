# SPDX-License-Identifier: Apache-2.0
"""What the programs would make of a packet: it is made up, and run through them on copies (:mod:`.sandbox`)."""

import ctypes
import errno
import struct
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address

from loxilb.errors import KernelError
from loxilb.kernel import abi
from loxilb.kernel.bpf import convert, layouts, loading, maps
from loxilb.kernel.bpf.clock import JiffyClock
from loxilb.kernel.bpf.finding import Found, RawKey, find
from loxilb.kernel.bpf.run import RunResult, context_of, run
from loxilb.kernel.bpf.sandbox import Sandbox
from loxilb.kernel.bpf.work import Work
from loxilb.model import Flow, IPAddress, Mode, Port
from loxilb.model.image import EndpointEntry, Listener
from loxilb.model.packet import MadePacket
from loxilb.model.port import IfIndex
from loxilb.model.trace import HookTrace, Traced, Verdict, Way
from loxilb.proto.frame import make_frame, read_frame

NEIGHBOUR = bytes((2, 0, 0, 0, 0, 1))
"""Who the packet is said to come from: an address that no device was made with (locally administered)."""
_PASSED = {"xdp": 2, "tc": 0xFFFF_FFFF}
_MASK = 0xFFFF_FFFF
_UNTRACEABLE = (errno.EINVAL, errno.ENODEV)  # no receive queue to run XDP for: the master of a bond


def trace(loaded: loading.Loaded, clock: JiffyClock, made: MadePacket, port: Port) -> Traced:
    """Run a packet that comes in by ``port`` through its programs; nothing live changes. Raises KernelError."""
    with Sandbox(loaded, made.source.version) as sandbox:
        return _Trace(sandbox, clock, made, port).run(("xdp", "tc") if "xdp" in port.hooks else ("tc",))


class _Trace:
    """One packet on its way."""

    def __init__(self, sandbox: Sandbox, clock: JiffyClock, made: MadePacket, port: Port) -> None:
        self._sandbox, self._clock, self._made, self._port = sandbox, clock, made, port
        self._key = RawKey.of(made)
        self._frame = b""
        self._steps: list[HookTrace] = []
        self._untraced: list[str] = []

    def run(self, hooks: Sequence[str]) -> Traced:
        self._sandbox.program(hooks[0])  # brings the copies
        before = find(self._sandbox, self._key)
        sequence, acknowledgement = _numbers(self._sandbox, before)
        self._frame = make_frame(
            self._made,
            to_mac=self._port.mac,
            from_mac=NEIGHBOUR,
            sequence=sequence,
            acknowledgement=acknowledgement,
        )
        result = self._by(hooks)
        return self._told(result, before, find(self._sandbox, self._key))

    def _by(self, hooks: Sequence[str]) -> RunResult:
        """Run hook after hook while the packet is passed on; returns the last result."""
        result = None
        for hook in hooks:
            try:
                result = self._at(hook)
            except KernelError as error:
                if hook == "tc" or error.errno not in _UNTRACEABLE:
                    raise
                self._untraced.append(hook)
                continue
            if result.code != _PASSED[hook]:
                break
        assert result is not None
        return result

    def _at(self, hook: str) -> RunResult:
        box, program = self._sandbox, self._sandbox.program(hook)
        self._forget()
        result = run(program, self._frame, context=context_of(hook, self._port.index, len(self._frame)))
        reason, work = self._reason(), Work.read(box)
        verdict = _verdict_of(reason)
        self._steps.append(
            HookTrace(
                hook=hook,
                verdict=verdict,
                reason=reason.name.lower(),
                cause=abi.Reason(work.reason).name.lower() if verdict is Verdict.ANSWERED else "",
                plain=reason is abi.Reason.FORWARD_ESTABLISHED and not work.went_slow,
            )
        )
        return result

    def _forget(self) -> None:
        """Make the counters and the record of the slow path say nothing of the hook before."""
        for reason in abi.Reason:
            self._sandbox.clear_per_cpu("reasons", reason, 8)
        self._sandbox.clear_per_cpu("work", 0, ctypes.sizeof(Work))

    def _reason(self) -> abi.Reason:
        """Return the one reason that was counted."""
        for reason in abi.Reason:
            if any(any(value) for value in self._sandbox.per_cpu("reasons", reason, 8)):
                return reason
        raise KernelError("trace a packet", errno.EIO, detail="no program counted it", remedy="worth a report")

    def _told(self, result: RunResult, before: Found | None, after: Found | None) -> Traced:
        last, made = self._steps[-1], self._made
        cold = after.cold if after else before.cold if before else None
        rule = cold.rule if cold else _rule(self._sandbox, made)
        entry = _endpoint(self._sandbox, cold.endpoint) if cold else None
        leaves = last.verdict in (Verdict.FORWARDED, Verdict.ANSWERED)
        return Traced(
            hooks=tuple(self._steps),
            made=read_frame(self._frame),
            table=before.table if before else None,
            flow=self._flow(before) if before else None,
            rule=rule,
            endpoint=cold.endpoint if cold else 0,
            endpoint_address=entry.address if entry else None,
            endpoint_port=entry.port if entry else 0,
            sent=read_frame(result.packet) if leaves else None,
            way=self._way(last, after, made.source.version) if last.verdict is Verdict.FORWARDED else None,
            untraced=tuple(self._untraced),
        )

    def _flow(self, found: Found) -> Flow:
        rule = self._sandbox.lookup("rules", maps.index_key(found.cold.rule), ctypes.sizeof(abi.Rule)) or b""
        mode = Mode(abi.Rule.from_buffer_copy(rule).mode)
        return convert.flow_from_slot(found.flow, found.cold, mode, self._clock, self._clock.now())

    def _way(self, last: HookTrace, flow: Found | None, version: int) -> Way | None:
        """Return where the packet goes, None where the kernel is to decide."""
        if last.reason in ("forward_local", "forward_loopback"):
            return None
        work = Work.read(self._sandbox)
        if last.reason == "forward_resolve":
            gateway: IPAddress = IPv4Address(bytes(work.fib_destination[:4]))
            if version == 6:
                gateway = IPv6Address(bytes(work.fib_destination))
            return Way(interface=IfIndex(work.fib_ifindex), gateway=gateway)
        if not last.plain:
            return Way(interface=IfIndex(work.way_ifindex), mac=bytes(work.dmac))
        assert flow is not None
        raw = self._sandbox.view("next_hops").element(flow.flow.head.next_hop)
        hop = abi.NextHop.from_buffer_copy(raw)
        return Way(interface=IfIndex(hop.ifindex), mac=bytes(hop.dmac))


def _verdict_of(reason: abi.Reason) -> Verdict:
    if reason.name.startswith("ANSWER_"):
        return Verdict.ANSWERED
    words = {"PASS": Verdict.PASSED, "FORWARD": Verdict.FORWARDED, "DROP": Verdict.DROPPED}
    return words[reason.name.partition("_")[0]]


def _numbers(sandbox: Sandbox, own: Found | None) -> tuple[int, int]:
    """Return the numbers of the segment that comes next in a connection: what its ends expect (``lox_said``)."""
    peer = find(sandbox, own.reverse) if own else None
    expected = (found.flow.head.sequence & _MASK if found else 0 for found in (peer, own))
    sequence, acknowledgement = (number or 1 for number in expected)
    return sequence, acknowledgement


def _rule(sandbox: Sandbox, made: MadePacket) -> int:
    """Return the rule of the service that a packet without a flow is addressed to, 0 for none."""
    listener = Listener.of(made.destination, made.protocol, made.destination_port)
    value = sandbox.lookup(f"listeners{listener.version}", layouts.listener_to_key(listener), 4)
    return struct.unpack("=I", value)[0] & abi.LISTENER_RULE if value else 0


def _endpoint(sandbox: Sandbox, index: int) -> EndpointEntry | None:
    raw = sandbox.lookup("endpoints", maps.index_key(index), ctypes.sizeof(abi.Endpoint)) or b""
    return layouts.endpoint_from_value(raw)

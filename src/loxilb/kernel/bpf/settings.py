# SPDX-License-Identifier: Apache-2.0
"""What the data plane is opened with: sizes, policies and timeouts."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from loxilb.kernel.bpf.features import ProgramSet
from loxilb.model import FlowState


class XdpPolicy(Enum):
    """Where the XDP program is attached in front of the TC program.

    ``AUTO``: on devices that frames arrive on from outside; on veth, bridge and tun devices TC alone is faster.
    """

    AUTO = "auto"
    ON = "on"
    OFF = "off"


DEFAULT_TIMEOUTS: Mapping[FlowState, float] = {
    FlowState.SYN_SENT: 10.0,
    FlowState.SYN_RECEIVED: 10.0,
    FlowState.CLOSING: 60.0,
    FlowState.TIME_WAIT: 10.0,
    FlowState.RESET: 1.0,
    FlowState.ONE_WAY: 10.0,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class DataPlaneSettings:
    """Sizes are numbers of flows (both directions count as one), rules, endpoints and ring slots.

    ``clients`` are those that persistence remembers, ``sources`` the allowed prefixes of all services, ``fragments``
    the fragmented datagrams under way. ``timeouts`` are seconds without a packet by state; a state without one uses
    the rule's timeout. An address gets one ICMP error per ``icmp_interval`` seconds and six at once (0: no limit),
    like the kernel's icmp_ratelimit. ``local_sockets`` has the sockets of this host's processes served: ``sockets`` are
    those that are connected at a time, ``errands`` the services that datagram sockets send to without connecting.
    So many ``aborts`` of connections may wait for the daemon. ``programs`` are the ones to run; None: the best that the
    kernel can. ``bpffs`` is the directory of a BPF file system; None finds or mounts one.
    """

    bpffs: Path | None = None
    programs: ProgramSet | None = None
    xdp: XdpPolicy = XdpPolicy.AUTO
    flows4: int = 262_144
    flows6: int = 65_536
    half_open4: int = 32_768
    half_open6: int = 4_096
    rules: int = 16_384
    endpoints: int = 32_768
    ring: int = 393_216
    listeners: int = 65_536
    next_hops: int = 8_192
    clients: int = 8_192
    sources: int = 65_536
    icmp_peers: int = 1_024
    fragments: int = 3_072
    icmp_interval: float = 1.0
    aborts: int = 512
    links: int = 1_024
    redirect_peer: bool = True
    local_sockets: bool = False
    sockets: int = 65_536
    errands: int = 4_096
    timeouts: Mapping[FlowState, float] = field(default_factory=lambda: dict(DEFAULT_TIMEOUTS))

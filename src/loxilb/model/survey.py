# SPDX-License-Identifier: Apache-2.0
"""What a host is found to be like, before a load balancer runs on it, and what is made of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

from loxilb.model.port import Port


class Level(Enum):
    """How much a finding matters; only a PROBLEM keeps the load balancer from working."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was looked at: what was found, and what to do about it ("" where there is nothing to do)."""

    check: str
    level: Level
    found: str
    remedy: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """Something that was tried: ``error`` is what came of it, "" where it worked."""

    name: str
    error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """One interface, with what only the kernel's other tables say of it.

    ``rp_filter`` is the effective value (0 off, 1 strict, 2 loose), ``foreign_xdp`` the name of an XDP program that is
    not ours, ``offloads`` those that could be asked for.
    """

    port: Port
    rp_filter: int = 0
    foreign_xdp: str = ""
    offloads: Mapping[str, bool] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """A chain of nftables or iptables that packets pass on their way through."""

    table: str
    name: str
    hook: str
    policy: str
    rewrites: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """Everything that was gathered; None stands for what could not be found out.

    ``bpffs`` is the directory of a BPF file system, ``bpffs_writable`` says whether this process may pin there,
    ``bpffs_ends`` whether it is, or would be, mounted in this process's mount namespace alone. ``ipv6_off`` says that
    the loopback may hold no IPv6 address. ``other_abi`` are versions of maps that another release has left pinned.
    ``daemon`` says that one runs here.
    """

    trials: Sequence[Trial] = ()
    capabilities: frozenset[str] = frozenset()
    bpffs: str = ""
    bpffs_writable: bool = False
    bpffs_ends: bool = False
    forwarding: Mapping[str, bool] = field(default_factory=dict)
    ipv6_off: bool = False
    devices: Sequence[Device] = ()
    chains: Sequence[Chain] | None = None
    legacy_tables: Sequence[str] = ()
    other_abi: Sequence[str] = ()
    daemon: bool = False
    xdp: str = "auto"

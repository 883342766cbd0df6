# SPDX-License-Identifier: Apache-2.0
"""Looking one flow up the way the programs do (``bpf/flow.h``): by the hash of its key, in a window of slots."""

import ctypes
import struct
from dataclasses import dataclass
from typing import NamedTuple, Self

from loxilb.kernel import abi
from loxilb.kernel.bpf.sandbox import Sandbox
from loxilb.model.packet import MadePacket
from loxilb.model.trace import Table

_MASK = (1 << 64) - 1
_WINDOWS = {Table.LARGE: abi.WINDOW, Table.HALF_OPEN: abi.HALF_WINDOW}


class RawKey(NamedTuple):
    """The key of one direction of a flow as it is in a slot: in network byte order."""

    source: bytes
    destination: bytes
    source_port: bytes
    destination_port: bytes
    protocol: int

    @classmethod
    def of(cls, made: MadePacket) -> Self:
        """Return the key of the flow that a packet belongs to."""
        return cls(
            made.source.packed,
            made.destination.packed,
            made.source_port.to_bytes(2, "big"),
            made.destination_port.to_bytes(2, "big"),
            made.number,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A live flow: a copy of both halves of its slot."""

    table: Table
    flow: abi.Flow4 | abi.Flow6
    cold: abi.Cold

    @property
    def reverse(self) -> RawKey:
        """The key of the other direction."""
        flow, head = self.flow, self.flow.head
        return RawKey(
            bytes(flow.new_daddr), bytes(flow.new_saddr), bytes(head.new_dport), bytes(head.new_sport), head.proto
        )


def home_of(key: RawKey, secret: tuple[int, int]) -> int:
    """Return the hash of a key (``lox_mix``)."""
    source_port, destination_port = struct.unpack("=HH", key.source_port + key.destination_port)
    ports = source_port << 32 | destination_port << 16 | key.protocol
    h: int = secret[0]
    if len(key.source) == 16:
        first, second, third, fourth = struct.unpack("=4Q", key.source + key.destination)
        h = (h ^ first) * 0x9FB21C651E98DF25 & _MASK
        h = (h ^ h >> 32 ^ second) * 0xD6E8FEB86659FD93 & _MASK
        h = (h ^ h >> 32 ^ third) * 0xA0761D6478BD642F & _MASK
        h = h ^ h >> 32 ^ fourth
    else:
        source, destination = struct.unpack("=II", key.source + key.destination)
        h ^= source << 32 | destination
    h = (h ^ h >> 32) * 0xD6E8FEB86659FD93 & _MASK
    h ^= (ports ^ secret[1]) * 0xFF51AFD7ED558CCD & _MASK
    h = (h ^ h >> 29) * 0xC4CEB9FE1A85EC53 & _MASK
    return h >> 32


def find(sandbox: Sandbox, key: RawKey) -> Found | None:
    """Return the live flow with this key, the large table first; None when there is none."""
    home = home_of(key, (sandbox.config.secret[0], sandbox.config.secret[1]))
    large = _in_table(sandbox, Table.LARGE, key, home) or _in_overflow(sandbox, key)
    return large or _in_table(sandbox, Table.HALF_OPEN, key, home)


def _in_table(sandbox: Sandbox, table: Table, key: RawKey, home: int) -> Found | None:
    version = 6 if len(key.source) == 16 else 4
    view = sandbox.view(f"{'flow' if table is Table.LARGE else 'half'}{version}")
    for step in range(_WINDOWS[table]):
        at = (home + step) & (view.entries - 1)
        raw = bytes(view.element(at))
        if raw[0] == abi.SLOT_FREE:
            return None
        found = _read(raw, table, version)
        if raw[0] == abi.SLOT_LIVE and _same(found.flow, key):
            if table is Table.LARGE and version == 4:
                cold = abi.Cold.from_buffer_copy(sandbox.view("flow4_cold").element(at))
                return Found(table=table, flow=found.flow, cold=cold)
            return found
    return None


def _in_overflow(sandbox: Sandbox, key: RawKey) -> Found | None:
    source, destination = key.source, key.destination
    raw_key = source + destination + key.source_port + key.destination_port + struct.pack("=I", key.protocol)
    version = 6 if len(source) == 16 else 4
    size = ctypes.sizeof(abi.Flow6 if version == 6 else abi.Whole4)
    raw = sandbox.lookup(f"overflow{version}", raw_key, size)
    return _read(raw, Table.OVERFLOW, version) if raw and raw[0] == abi.SLOT_LIVE else None


def _read(raw: bytes, table: Table, version: int) -> Found:
    """Read a slot; of an IPv4 slot of the large table the cold half is elsewhere."""
    if version == 6:
        six = abi.Flow6.from_buffer_copy(raw)
        return Found(table=table, flow=six, cold=six.cold)
    if table is Table.LARGE:
        return Found(table=table, flow=abi.Flow4.from_buffer_copy(raw), cold=abi.Cold())
    whole = abi.Whole4.from_buffer_copy(raw)
    return Found(table=table, flow=whole.flow, cold=whole.cold)


def _same(flow: abi.Flow4 | abi.Flow6, key: RawKey) -> bool:
    head = flow.head
    return (
        bytes(flow.saddr) == key.source
        and bytes(flow.daddr) == key.destination
        and bytes(head.sport) == key.source_port
        and bytes(head.dport) == key.destination_port
        and head.proto == key.protocol
    )

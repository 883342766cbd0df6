# SPDX-License-Identifier: Apache-2.0
"""Dropped packets are reported while somebody watches: the bytes they had, no more than a ration, the rest counted."""

import ctypes
import struct
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_network

import pytest

from loxilb.kernel import abi
from loxilb.kernel.abi import Reason
from loxilb.kernel.bpf import libbpf, maps
from loxilb.kernel.bpf.drops import drop_from_record
from loxilb.kernel.bpf.events import RingReader
from loxilb.model.port import IfIndex
from loxilb.model.trace import DroppedPacket
from loxilb.proto.frame import read_frame
from tests.packet.driver import Driver
from tests.support.bpf import CLIENT, Hook
from tests.support.packets import RST, SYN, Packet

pytestmark = pytest.mark.must_run
CAPTURED, BURST, RING = 132, 64, 32_768
ONLY = {4: ip_network("10.99.0.0/16"), 6: ip_network("fd00::/64")}


class Watch:
    """Records as they are in the ring buffer."""

    def __init__(self, driver: Driver) -> None:
        self.sampler = driver.data_plane.drops
        self._reader = RingReader(driver.data_plane.descriptors["drops"], bytes)

    def records(self) -> list[bytes]:
        """Return what has come since the last time."""
        found: list[bytes] = []
        while more := self._reader.read():
            found += more
        return found

    def close(self) -> None:
        """Leave nothing for the next test."""
        self.sampler.sample(False)
        self.records()
        self._reader.close()


@pytest.fixture
def watch(driver: Driver) -> Iterator[Watch]:
    """Somebody who watches, from now on."""
    made = Watch(driver)
    made.records()
    made.sampler.sample(True)
    yield made
    made.close()


def refused(driver: Driver, version: int, payload: bytes = b"") -> Packet:
    """Return a packet of a client that its service does not allow."""
    service = driver.service(version, allowed_sources=(ONLY[version],))
    return driver.path(service).request(flags=SYN, payload=payload)


@pytest.mark.parametrize("size", [0, 1, 200])
def test_a_dropped_packet_is_reported_as_it_came(
    driver: Driver, watch: Watch, hook: Hook, version: int, size: int
) -> None:
    """Every member of the record, and the start of the frame byte by byte."""
    packet = refused(driver, version, bytes(range(size)))
    frame = bytes(packet)

    driver.expect(hook, packet, Reason.DROP_SOURCE)

    (record,) = watch.records()
    raw = abi.Drop.from_buffer_copy(record)
    captured = min(CAPTURED, len(frame) // 2 * 2)
    assert (raw.ifindex, raw.length, raw.captured) == (driver.world.indexes[CLIENT], len(frame), captured)
    assert (raw.reason, raw.hook) == (Reason.DROP_SOURCE, abi.AT_XDP if hook is Hook.XDP else abi.AT_TC)
    assert bytes(raw.head) == frame[:captured].ljust(CAPTURED, b"\0")
    assert drop_from_record(record) == DroppedPacket(
        at=raw.at / 1e9,
        interface=IfIndex(driver.world.indexes[CLIENT]),
        hook=hook.value,
        reason="drop_source",
        length=len(frame),
        headers=read_frame(frame),
    )


def test_each_way_to_drop_is_reported(driver: Driver, watch: Watch) -> None:
    """By the slow path, in place of an answer, and of a reset that does not fit."""
    service = driver.service(4)
    driver.expect(Hook.TC, driver.path(service).request(flags=RST), Reason.DROP_NOT_SYN)
    opened = driver.open(Hook.TC, driver.path(service))
    blind = opened.request(flags=RST, sequence=0x7000_0000)
    driver.expect(Hook.TC, blind, Reason.DROP_RST)
    martian = replace(driver.path(service), client=ip_network("127.0.0.0/8")[1])
    driver.expect(Hook.XDP, martian.request(flags=SYN), Reason.DROP_MARTIAN)

    found = [drop_from_record(record) for record in watch.records()]

    assert [(one.hook, one.reason) for one in found] == [
        ("tc", "drop_not_syn"),
        ("tc", "drop_rst"),
        ("xdp", "drop_martian"),
    ]
    assert found[0].at <= found[1].at <= found[2].at


def test_nothing_is_reported_unless_somebody_watches(driver: Driver, watch: Watch, hook: Hook) -> None:
    """What is forwarded is not reported in any case."""
    driver.open(hook, driver.path(driver.service(4)))
    watch.sampler.sample(False)
    lost = watch.sampler.lost()
    driver.expect(hook, refused(driver, 4), Reason.DROP_SOURCE)

    assert (watch.records(), watch.sampler.lost() - lost) == ([], 0)


def test_too_many_at_once_are_counted(driver: Driver, watch: Watch, hook: Hook) -> None:
    """A processor reports its burst, and then as many as its time brings; nothing is missing in the sum."""
    packet = refused(driver, 4)
    saved = bytes(16 * libbpf.possible_cpus())  # since the machine was started
    maps.update(driver.data_plane.descriptors["drop_rations"], maps.index_key(0), saved, "fill the ration")
    lost, total = watch.sampler.lost(), 600
    for _ in range(total):
        driver.run(hook, packet)

    reported = len(watch.records())

    assert reported >= BURST
    assert watch.sampler.lost() - lost == total - reported > 0


def test_a_full_ring_buffer_is_counted_too(driver: Driver, watch: Watch) -> None:
    """Nobody waits for who reads."""
    packet = refused(driver, 4)
    endless = struct.pack("=I", 1)  # nanoseconds between two reports
    maps.update(driver.data_plane.descriptors["drop_interval"], maps.index_key(0), endless, "widen the ration")
    lost, total = watch.sampler.lost(), 1000
    for _ in range(total):
        driver.run(Hook.XDP, packet)

    reported = len(watch.records())

    assert reported == RING // (8 + ctypes.sizeof(abi.Drop))
    assert watch.sampler.lost() - lost == total - reported

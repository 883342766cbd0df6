# SPDX-License-Identifier: Apache-2.0
"""A daemon with a million flows and ten thousand services: lists, scrapes, and what it takes while nothing happens.

The flows are written into the tables that the kernel shares, as the data plane would have: opening them with packets
would measure that.
"""

import ctypes
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tests.support.lab import Lab
from tests.support.lab_star import LoadBalancer

from bench.cpu import idle, memory, used
from bench.figures import Figure
from bench.place import MeasurementError, inside
from loxilb.kernel import abi, netns
from loxilb.kernel.bpf import maps, pins
from loxilb.kernel.bpf.flow_rows import FORMS
from loxilb.kernel.bpf.maps import ArrayView

SERVICES = 10_000
_API = ("127.0.0.1", 11111)
_LIST = "/netlox/v1/config/conntrack/all"
_VIP, _SERVER, _CLIENTS = "20.20.20.1", "31.31.31.1", 10 << 24
_FIRST_PORT = 10_000
_QUERIES = {"page": "limit=1000", "client": "client=10.0.0.7", "service": f"service={_VIP}:{_FIRST_PORT + 7}/tcp"}
_LABELS = {
    "page": "first page of 1000",
    "client": "those of one client",
    "service": "those of one service",
}
_PATIENCE_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """Flows there are, how often each thing is done, and seconds that nothing happens."""

    flows: int
    samples: int
    idle: float


def _saved(folder: Path) -> Path:
    """Write a file of saved services, all on one address, and return its directory."""
    rules = [
        {
            "serviceArguments": {
                "externalIP": _VIP,
                "port": _FIRST_PORT + number,
                "protocol": "tcp",
                "name": f"service-{number}",
            },
            "endpoints": [{"endpointIP": _SERVER, "targetPort": 8080, "weight": 1}],
        }
        for number in range(SERVICES)
    ]
    directory = folder / "saved"
    directory.mkdir()
    (directory / "lbconfig.txt").write_text(json.dumps({"lbAttr": rules}))
    return directory


def _address(text: str) -> int:
    return int.from_bytes(socket.inet_aton(text), "big")


def _jiffies() -> int:
    """Return the kernel's time stamp of now."""
    lines = Path("/proc/timer_list").read_text().splitlines()
    now = next((line.split()[1] for line in lines if line.startswith("jiffies")), None)
    if now is None:
        raise MeasurementError("this kernel does not tell its jiffies")
    return int(now) & 0xFFFFFFFF


@contextmanager
def _table(name: str, layout: Any) -> Iterator[ArrayView]:
    """Map a table of the data plane in this namespace."""
    directory = pins.PinDirectory(pins.find_bpffs(None))
    descriptor = pins.get(directory.map_path(name)) or -1
    size = maps.describe(descriptor).max_entries
    view = ArrayView(descriptor, entries=size, value_size=ctypes.sizeof(layout), writable=True)
    try:
        yield view
    finally:
        view.close()
        os.close(descriptor)


def _endpoints() -> NDArray[np.uint32]:
    """Return every endpoint and its rule."""
    with _table("endpoints", abi.Endpoint) as view:
        used = view.places(abi.Endpoint.family.offset, b"\4")
        return np.array([(at, abi.Endpoint.from_buffer_copy(view.element(at)).rule) for at in used], np.uint32)


def fill(flows: int) -> None:
    """Put both directions of established flows into slots of the large IPv4 table at random, those of now."""
    endpoints = _endpoints()
    with _table("flow4", abi.Flow4) as hot, _table("flow4_cold", abi.Cold) as cold:
        _write(hot, cold, np.random.default_rng(1).permutation(hot.entries)[: 2 * flows], endpoints)


def _write(hot: ArrayView, cold: ArrayView, slots: NDArray[np.int64], endpoints: NDArray[np.uint32]) -> None:
    count, now = len(slots) // 2, _jiffies()
    number = np.arange(count)
    client, port = _CLIENTS + number // 40, 1024 + number % 60_000
    service = _FIRST_PORT + number % SERVICES
    vip, server = np.full(count, _address(_VIP)), np.full(count, _address(_SERVER))
    there = (client, port, vip, service, client, port, server, 8080, 0)
    back = (server, 8080, client, port, vip, service, client, port, abi.FLOW_REPLY)
    rows = np.frombuffer(hot.memory, FORMS[4], hot.entries)
    words = np.frombuffer(hot.memory, np.uint32, hot.entries * 16).reshape(-1, 16)
    colds = np.frombuffer(cold.memory, np.uint32, cold.entries * 4).reshape(-1, 4)
    for at, values in ((slots[:count], there), (slots[count:], back)):
        _write_direction(rows, at, values)
        endpoint, rule = endpoints[number % len(endpoints)].T
        colds[at, 0], colds[at, 1], colds[at, 2] = now, rule, endpoint
    words[slots, abi.FlowHead.last.offset // 4] = now
    words[slots, abi.FlowHead.word.offset // 4] = abi.SLOT_LIVE  # the last thing: they are flows from here on


def _write_direction(rows: NDArray[Any], at: NDArray[np.int64], values: Sequence[Any]) -> None:
    sides = ("source", "destination", "new_source", "new_destination")
    for side, address, port in zip(sides, values[::2], values[1::2], strict=False):
        rows[side][at] = np.stack([address >> 16, address & 0xFFFF], axis=1)
        rows[f"{side}_port"][at] = port
    rows["protocol"][at], rows["state"][at], rows["flags"][at] = 6, 3, values[-1]
    rows["packets"][at], rows["bytes"][at] = 1 + at % 5000, 40 + at * 7 % 10_000_000


def _get(path: str) -> tuple[float, int]:
    """Return the milliseconds of a request, and the bytes of its answer."""
    request = f"GET {path} HTTP/1.1\r\nHost: lb\r\nConnection: close\r\n\r\n".encode()
    began, size, room = time.perf_counter(), 0, bytearray(1 << 20)
    with socket.create_connection(_API, timeout=_PATIENCE_S) as api:
        api.sendall(request)
        head = api.recv(1 << 16)
        if b" 200 " not in head.partition(b"\r\n")[0]:
            raise MeasurementError(f"{path}: {head!r}")
        size = len(head)
        while got := api.recv_into(room):
            size += got
    return (time.perf_counter() - began) * 1e3, size


@dataclass(frozen=True, slots=True)
class _Beside:
    """What another client sees meanwhile: milliseconds of its requests, and MiB that the daemon has to itself."""

    waits: list[float] = field(default_factory=list)
    sizes: list[float] = field(default_factory=list)


@contextmanager
def _asking(place: Path, pid: int, seen: _Beside) -> Iterator[None]:
    """Have a thread ask for the version again and again. Raises what it raised."""
    done = threading.Event()
    failures: list[Exception] = []

    def ask() -> None:
        try:
            netns.enter(str(place))
            while not seen.sizes or not done.wait(0.01):
                seen.waits.append(_get("/netlox/v1/version")[0])
                seen.sizes.append(memory(pid, "RssAnon"))
        except Exception as error:  # noqa: BLE001 raised in the other thread
            failures.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
    if failures:
        raise failures[0]


def _whole_list(pid: int, effort: Effort) -> tuple[float, float]:
    """Return the milliseconds of a list of all flows, and the daemon's processor time, in milliseconds as well."""
    worked = used(pid)
    took, size = _get(_LIST)
    if size < 2 * effort.flows * 200:
        raise MeasurementError(f"{size} bytes are no list of {effort.flows} flows")
    return took, (used(pid) - worked) / 1e6


def _lists(place: Path, pid: int, effort: Effort) -> Iterator[Figure]:
    label = f"whole list, {effort.flows} flows"
    _get(f"{_LIST}?limit=1")  # loads numpy
    had = memory(pid, "RssAnon")
    alone = [_whole_list(pid, effort) for _ in range(effort.samples)]
    yield Figure(key="flows.list", label=label, unit="ms", samples=tuple(took for took, _ in alone))
    yield Figure(
        key="flows.work", label=f"{label}, processor time", unit="ms", samples=tuple(work for _, work in alone)
    )
    beside, waits, grown = [], [], []
    for _ in range(effort.samples):
        seen = _Beside()
        with _asking(place, pid, seen):
            beside.append(_whole_list(pid, effort)[0])
        grown.append(max(seen.sizes) - had)
        waits += seen.waits
    yield Figure(key="flows.beside", label=f"{label}, while another client asks", unit="ms", samples=tuple(beside))
    yield Figure(key="flows.memory", label=f"{label}, memory of its own", unit="MiB", samples=tuple(grown))
    yield Figure(key="flows.wait", label="another request meanwhile", unit="ms", samples=tuple(waits))
    yield Figure(key="flows.longest", label="the longest of them", unit="ms", samples=(max(waits),))
    for name, query in _QUERIES.items():
        found = tuple(_get(f"{_LIST}?{query}")[0] for _ in range(effort.samples))
        yield Figure(key=f"flows.{name}", label=f"list of flows, {_LABELS[name]}", unit="ms", samples=found)


def _scrapes(place: Path, pid: int, samples: int) -> Iterator[Figure]:
    took, seen = [], _Beside()
    _get("/metrics")
    for _ in range(samples):
        with _asking(place, pid, seen):
            took.append(_get("/metrics")[0])
    yield Figure(key="flows.scrape", label=f"/metrics, {SERVICES} services", unit="ms", samples=tuple(took))
    yield Figure(key="flows.scrape_wait", label="another request meanwhile", unit="ms", samples=tuple(seen.waits))


def _idle(pid: int, seconds: float) -> Figure:
    label = f"processor, idle, {SERVICES} services"
    return Figure(key="flows.idle", label=label, unit="%", samples=(idle(pid, seconds),))


def measure(lab: Lab, effort: Effort, say: Callable[[str], None]) -> Sequence[Figure]:
    """Measure one daemon; raises MeasurementError when an answer is not what was asked for."""
    say(f"flows: {SERVICES} services, {effort.flows} flows")
    namespace = lab.namespace("flows")
    balancer = LoadBalancer(lab, namespace)
    saved = str(_saved(lab.folder))
    balancer.start("--loglevel", "error", "--prometheus", "--config-path", saved, "--flows4", str(effort.flows))
    with inside(namespace):
        fill(effort.flows)
        say("flows: measuring")
        lists = tuple(_lists(namespace.path, balancer.pid, effort))
        scrapes = tuple(_scrapes(namespace.path, balancer.pid, effort.samples))
        return (*lists, *scrapes, _idle(balancer.pid, effort.idle))  # long after the start, and its audit

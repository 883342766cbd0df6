# SPDX-License-Identifier: Apache-2.0
"""The control plane: how long a listing takes, and how long a change takes to reach the data plane."""

import json
import os
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from ctypes import Structure, sizeof
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Any

from tests.support.lab import BIN, Lab
from tests.support.lab_star import LoadBalancer

from bench.figures import Figure
from bench.place import MeasurementError, inside
from loxiapi import client
from loxilb.kernel import abi
from loxilb.kernel.bpf import layouts, maps, pins
from loxilb.kernel.bpf.maps import ArrayView
from loxilb.model import L4Protocol
from loxilb.model.image import EndpointFlags, Listener

SERVICES = 100
_PATH = "/config/loadbalancer"
_API_PORT = 11111
_PORT, _ENDPOINTS = 80, 3
_DEADLINE_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """Listings and changes made."""

    samples: int


def _service(number: int, last: int) -> dict[str, Any]:
    """Return a service as the API takes it; ``last`` is the last number of its last endpoint's address."""
    hosts = (*range(1, _ENDPOINTS), last)
    return {
        "serviceArguments": {"externalIP": str(_vip(number)), "port": _PORT, "protocol": "tcp"},
        "endpoints": [{"endpointIP": f"198.19.1.{host}", "targetPort": 8080, "weight": 1} for host in hosts],
    }


def _vip(number: int) -> IPv4Address:
    return IPv4Address("198.18.128.0") + number


def _create_services() -> None:
    for number in range(SERVICES):
        body = json.dumps(_service(number, _ENDPOINTS)).encode()
        answer = client.send(client.Server(port=_API_PORT), "POST", _PATH, body=body)
        if answer.status != 200:
            raise MeasurementError(f"create service {number}: {answer.status} {answer.body!r}")


class Watch:
    """The endpoints of one service, read from the data plane's arrays without a system call."""

    def __init__(self, service: IPv4Address, port: int = _PORT) -> None:
        """Map the arrays of the data plane of the calling thread's namespace."""
        directory = pins.PinDirectory(pins.find_bpffs(None))
        self._pins = {
            name: pins.get(directory.map_path(name)) or -1 for name in ("listeners4", "rules", "ring", "endpoints")
        }
        self._rules = self._view("rules", abi.Rule)
        self._ring = self._view("ring", abi.RingLine)
        self._endpoints = self._view("endpoints", abi.Endpoint)
        key = layouts.listener_to_key(Listener.of(service, L4Protocol.TCP, port))
        self._rule = int.from_bytes(maps.lookup(self._pins["listeners4"], key, 4) or b"", "little")

    def _view(self, name: str, layout: type[Structure]) -> ArrayView:
        entries = maps.describe(self._pins[name]).max_entries
        return ArrayView(self._pins[name], entries=entries, value_size=sizeof(layout))

    def holds(self, address: IPv4Address) -> bool:
        """Tell whether new flows of the service can go to this endpoint now."""
        base, length = struct.unpack_from("=II", self._rules.element(self._rule))
        for endpoint in struct.unpack(f"={length}I", self._ring.read(base * 4, length * 4)):
            raw = abi.Endpoint.from_buffer_copy(self._endpoints.element(endpoint))
            if raw.flags == EndpointFlags.LIVE and bytes(raw.addr[:4]) == address.packed:
                return True
        return False

    def close(self) -> None:
        """Unmap and close."""
        for view in (self._rules, self._ring, self._endpoints):
            view.close()
        for descriptor in self._pins.values():
            os.close(descriptor)


@contextmanager
def connected() -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", _API_PORT), timeout=_DEADLINE_S) as api:
        api.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield api


def request_of(body: Mapping[str, Any]) -> bytes:
    text = json.dumps(body).encode()
    head = f"POST {client.BASE_PATH}{_PATH} HTTP/1.1\r\nHost: lb\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(text)}\r\n\r\n".encode() + text


def change(api: socket.socket, watch: Watch, request: bytes, address: IPv4Address) -> tuple[float, float]:
    """Change an endpoint to ``address``; returns the milliseconds to the data plane, and to the answer."""
    if watch.holds(address):
        raise MeasurementError(f"{address} is there before the change")
    began = time.perf_counter()
    api.sendall(request)
    while not watch.holds(address):
        if time.perf_counter() - began > _DEADLINE_S:
            raise MeasurementError(f"the change is not in the data plane: {api.recv(4096)!r}")
    took = time.perf_counter() - began
    answer = api.recv(4096)
    if b" 200 " not in answer.partition(b"\r\n")[0]:
        raise MeasurementError(f"change refused: {answer!r}")
    return took * 1e3, (time.perf_counter() - began) * 1e3


def _changes(samples: int) -> Iterator[float]:
    number = SERVICES // 2
    watch = Watch(_vip(number))
    try:
        with connected() as api:
            for sample in range(samples):
                request = request_of(_service(number, 10 + sample))
                yield change(api, watch, request, IPv4Address(f"198.19.1.{10 + sample}"))[0]
    finally:
        watch.close()


def _listing() -> float:
    """List the services with the command line tool; returns its wall time in milliseconds."""
    began = time.perf_counter()
    done = subprocess.run([BIN / "loxicmd", "get", "lb"], capture_output=True, text=True, check=True, timeout=30)
    took = time.perf_counter() - began
    if str(_vip(SERVICES - 1)) not in done.stdout:
        raise MeasurementError(f"the listing is not whole: {done.stdout[-400:]!r}")
    return took * 1e3


def measure(lab: Lab, effort: Effort, say: Callable[[str], None]) -> Sequence[Figure]:
    """Measure with 100 services configured; raises MeasurementError when an answer is not what was asked for."""
    say(f"control: {SERVICES} services")
    namespace = lab.namespace("control")
    LoadBalancer(lab, namespace).start("--loglevel", "error")
    with inside(namespace):
        _create_services()
        say("control: measuring")
        listed = tuple(_listing() for _ in range(effort.samples))
        changed = tuple(_changes(effort.samples))
    return (
        Figure(key="control.list", label=f"loxicmd get lb, {SERVICES} services", unit="ms", samples=listed),
        Figure(key="control.change", label="request to data plane, one endpoint", unit="ms", samples=changed),
    )

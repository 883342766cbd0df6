# SPDX-License-Identifier: Apache-2.0
"""The usual topology: one client, one load balancer, servers on links of their own; IPv4 and IPv6.

::

    client 10.10.10.1  ──  .254 lb .254 ──  server1 31.31.31.1
           3ffe::1         ::2      ::2  ├─ server2 32.32.32.1   4ffe::1, 5ffe::1, 6ffe::1
                                         └─ server3 33.33.33.1

All but the load balancer have it as their default gateway.
"""

import http.client
import json
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import count, islice, repeat
from pathlib import Path
from typing import Any

from tests.support.lab import BIN, ROOT, CommandError, Lab, Namespace, Process, wait_for
from tests.support.patience import SLOWER
from tests.support.traffic import Answer, ask, ask_datagram

PORT = 8080
SERVERS4 = ("31.31.31.1", "32.32.32.1", "33.33.33.1")
SERVERS6 = ("4ffe::1", "5ffe::1", "6ffe::1")
_READY_S = 60.0
_ANSWER_S = 10
_SEEN_AS_CERTIFICATES = """
    mount -t tmpfs none /opt && mkdir -p /opt/loxilb/cert && mount --bind "$0" /opt/loxilb/cert && exec "$@"
"""


def evenly(addresses: Iterable[str]) -> list[str]:
    """Return endpoints of equal weight, for ``LoadBalancer.create``."""
    return [f"{address}:1" for address in addresses]


class LoadBalancer:
    """A namespace with a daemon in it, and the command line to talk to it."""

    def __init__(self, lab: Lab, namespace: Namespace) -> None:
        """Use a namespace; nothing runs yet."""
        self.namespace = namespace
        self.ready_line = ""
        self.store = lab.folder / f"{namespace.name}.db"
        self._lab = lab
        self._daemon: Process | None = None
        self._touched = False
        lab.undo(self.down)

    def start(self, *flags: str, certificates: Path | None = None, build: Path | None = None) -> None:
        """Start the daemon and wait until it serves; ``certificates`` is what it finds at /opt/loxilb/cert.

        ``build`` is the directory of another build of it.
        """
        self.launch(*flags, certificates=certificates, build=build)
        assert self._daemon is not None
        self.ready_line = self._daemon.wait_line(r"ready in", deadline=_READY_S)

    def launch(self, *flags: str, certificates: Path | None = None, build: Path | None = None) -> Process:
        """Start the daemon, as :meth:`start`, and wait for nothing."""
        seen = () if certificates is None else ("unshare", "-m", "sh", "-c", _SEEN_AS_CERTIFICATES, certificates)
        self._touched = True  # before there is a process: an interrupt may come while there is one
        own = ("--config", "none", "--store", self.store)
        path = () if build is None else ("env", f"PYTHONPATH={build}")
        self._daemon = self._lab.process(self.namespace, *seen, *path, BIN / "loxilb", *own, *flags)
        return self._daemon

    @property
    def pid(self) -> int:
        """The daemon's process."""
        assert self._daemon is not None
        return self._daemon.popen.pid

    def stop(self) -> int:
        """End the daemon, forwarding stays; returns its exit code."""
        assert self._daemon is not None
        return self._daemon.stop()

    def kill(self) -> None:
        """End the daemon as a crash would; forwarding stays."""
        assert self._daemon is not None
        self._daemon.popen.kill()
        self._daemon.stop()

    def down(self) -> None:
        """End the daemon and take every trace of it away."""
        if self._daemon is not None:
            self._daemon.stop()
        if self._touched:
            self.namespace.run(BIN / "loxilb", "down", "--store", self.store, "--purge")

    def log(self) -> str:
        """Return what the daemon logged."""
        assert self._daemon is not None
        return self._daemon.log.read_text()

    def loxicmd(self, line: str) -> str:
        """Run the command line tool on one line of arguments; raises CommandError."""
        return self.namespace.run(BIN / "loxicmd", "-t", str(round(_ANSWER_S * SLOWER)), *line.split())

    def create(self, address: str, rule: str, endpoints: Sequence[str]) -> None:
        """Create a service; an endpoint is ``address:weight``."""
        self.loxicmd(f"create lb {address} {rule} --endpoints={','.join(endpoints)}")

    def rows(self, what: str) -> list[list[str]]:
        """Return the table that ``loxicmd`` prints, cells stripped, the header first."""
        lines = [line for line in self.loxicmd(what).splitlines() if not line.startswith("|-")]
        return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]

    def api(self, method: str, path: str, body: object = None) -> Any:
        """Send a request to the API and return what it answered; AssertionError when that is no success."""
        return self.namespace.call(_request, method, path, body)

    def clear(self) -> None:
        """Delete every service."""
        self.api("DELETE", "/config/loadbalancer/all")


def _request(method: str, path: str, body: object) -> Any:
    api = http.client.HTTPConnection("127.0.0.1", 11111, timeout=5 * SLOWER)
    try:
        text = None if body is None else json.dumps(body)
        api.request(method, f"/netlox/v1{path}", text, {"Content-Type": "application/json"})
        answer = api.getresponse()
        content = answer.read()
        if answer.status not in (200, 204):
            raise AssertionError(f"{method} {path}: {answer.status} {content!r}")
    finally:
        api.close()
    return json.loads(content) if content else None


@dataclass(frozen=True)
class Star:
    """The namespaces, and requests from the client."""

    lab: Lab
    client: Namespace
    lb: LoadBalancer
    servers: tuple[Namespace, ...]
    fresh_ports: Iterator[int] = field(default_factory=lambda: count(10_000))
    """Ports of the client that nothing used before, and that the kernel chooses for nobody."""

    def ask(self, host: str, port: int, *, source_port: int = 0, timeout: float = 3) -> Answer:
        """Send one HTTP request on a connection of its own."""
        return self.client.call(partial(ask, host, port, source_port=source_port, timeout=timeout))

    def ask_datagram(
        self, host: str, port: int, payload: bytes = b"ping", *, source_port: int = 0, ttl: int = 0
    ) -> Answer:
        """Send one datagram and get it back."""
        return self.client.call(partial(ask_datagram, host, port, payload, source_port=source_port, ttl=ttl))

    def names(self, host: str, port: int, number: int, *, udp: bool = False, source_port: int = 0) -> list[str]:
        """Return which servers answered ``number`` requests made one after the other.

        Each datagram is a flow of its own unless ``source_port`` is given: the kernel would choose a port again, now
        and then, whose flow is still there.
        """
        call = partial(ask_datagram if udp else ask, host, port)
        ports = self.fresh_ports if udp and not source_port else repeat(source_port)
        return self.client.call(lambda: [call(source_port=one).server for one in islice(ports, number)])

    def crowd(self, host: str, port: int, count: int, *, width: int = 16) -> list[str]:
        """Return which servers answered ``count`` requests made ``width`` at a time."""

        def all_at_once() -> list[str]:
            with ThreadPoolExecutor(width) as pool:
                return [answer.server for answer in pool.map(lambda _: ask(host, port), range(count))]

        return self.client.call(all_at_once)


def _join(lab: Lab, lb: Namespace, other: Namespace, role: str, v4: str, v6: str) -> None:
    """Connect a namespace to the load balancer; ``v4`` and ``v6`` are its own addresses."""
    device = f"e{role}"
    lab.link(lb, device, other, "eth0")
    gateway4, gateway6 = f"{v4.rpartition('.')[0]}.254", f"{v6.rpartition('::')[0]}::2"
    lb.ip(f"addr add {gateway4}/24 dev {device}", f"addr add {gateway6}/64 dev {device} nodad")
    other.ip(
        f"addr add {v4}/24 dev eth0",
        f"addr add {v6}/64 dev eth0 nodad",
        f"route add default via {gateway4}",
        f"route add default via {gateway6}",
    )


def server(lab: Lab, namespace: Namespace, name: str) -> Process:
    """Start a server; wait for its ``wait_line("serves")``."""
    return lab.process(namespace, ROOT / ".venv/bin/python", "-m", "tests.support.traffic", name, str(PORT))


def take_frames(*namespaces: Namespace) -> None:
    """Let the far end of a veth take frames that native XDP redirects: only with NAPI, which GRO switches on.

    Checksums stay as veth leaves them, for the last device to finish; a wire has them finished already.
    """
    for namespace in namespaces:
        namespace.run("ethtool", "-K", "eth0", "gro", "on")


def build(lab: Lab, *, servers: int = 3, serve: bool = True) -> Star:
    """Build the topology, servers running, the daemon not yet started."""
    client, lb = lab.namespace("client"), lab.namespace("lb")
    _join(lab, lb, client, "client", "10.10.10.1", "3ffe::1")
    backends = tuple(lab.namespace(f"server{number + 1}") for number in range(servers))
    for number, backend in enumerate(backends):
        _join(lab, lb, backend, f"server{number + 1}", SERVERS4[number], SERVERS6[number])
    if serve:
        started = [server(lab, backend, f"server{number + 1}") for number, backend in enumerate(backends)]
        for process in started:
            process.wait_line("serves", deadline=20)
    return Star(lab=lab, client=client, lb=LoadBalancer(lab, lb), servers=backends)


def route_directly(star: Star) -> None:
    """Wait until every server is reached through the load balancer as a plain router."""

    def reached(address: str) -> bool:
        try:
            star.client.run("ping", "-c1", "-W1", address)
        except CommandError:
            return False
        return True

    count = len(star.servers)
    for address in (*SERVERS4[:count], *SERVERS6[:count]):
        wait_for(partial(reached, address), what=f"{address} routed")

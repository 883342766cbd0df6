# SPDX-License-Identifier: Apache-2.0
"""Traffic that goes on all the time, and notices whatever goes wrong."""

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

from tests.support.lab import Namespace, wait_for
from tests.support.traffic import CHUNK, ask, ask_on, connection

_PATIENCE_S = 30.0
_PACE_S = 0.005
_ENDLESS = 10**15
_STEPS = 5


class Load:
    """Keep-alive requests, new connections and one bulk transfer to each of some addresses, until it is left.

    ``failures`` has a line for everything that did not come back as it should.
    """

    def __init__(self, client: Namespace, addresses: Sequence[str], port: int) -> None:
        """Send nothing yet."""
        self._port = port
        self._over = threading.Event()
        self._done: Counter[str] = Counter()
        self.failures: list[str] = []
        kinds: tuple[Callable[[str, str], None], ...] = (self._keep, self._open, self._bulk)
        self._threads = {
            f"{kind.__name__[1:]} {address}": threading.Thread(
                target=client.call, args=(self._guard, kind, f"{kind.__name__[1:]} {address}", address)
            )
            for kind in kinds
            for address in addresses
        }

    def __enter__(self) -> Self:
        """Start every stream, and return when all of them flow."""
        for thread in self._threads.values():
            thread.start()
        self.flows_on()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End every stream."""
        self._over.set()
        for thread in self._threads.values():
            thread.join()

    def flows_on(self) -> None:
        """Return when every stream has made some more progress, or something has failed."""
        begin = Counter(self._done)

        def further() -> bool:
            return bool(self.failures) or all(self._done[name] >= begin[name] + _STEPS for name in self._threads)

        wait_for(further, deadline=_PATIENCE_S, what="all streams to flow on")

    def _guard(self, kind: Callable[[str, str], None], name: str, address: str) -> None:
        try:
            kind(name, address)
        except (OSError, ValueError) as error:
            self.failures.append(f"{name}: {error!r}")

    def _keep(self, name: str, address: str) -> None:
        with connection(address, self._port, timeout=_PATIENCE_S) as sock:
            while not self._over.wait(_PACE_S):
                ask_on(sock)
                self._done[name] += 1

    def _open(self, name: str, address: str) -> None:
        while not self._over.wait(_PACE_S):
            ask(address, self._port, timeout=_PATIENCE_S)
            self._done[name] += 1

    def _bulk(self, name: str, address: str) -> None:
        """Read an endless body; every byte must be the one that belongs there."""
        with connection(address, self._port, timeout=_PATIENCE_S) as sock:
            sock.sendall(f"GET /bulk/{_ENDLESS} HTTP/1.1\r\nHost: test\r\n\r\n".encode())
            data, at = sock.recv(len(CHUNK)).partition(b"\r\n\r\n")[2], 0
            while not self._over.wait(_PACE_S):
                if data != (CHUNK + CHUNK)[at : at + len(data)]:
                    raise ValueError("other bytes than were sent")
                at = (at + len(data)) % len(CHUNK)
                data = sock.recv(len(CHUNK))
                if not data:
                    raise ConnectionError("closed in the middle")
                self._done[name] += 1

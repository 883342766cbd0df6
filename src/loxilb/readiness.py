# SPDX-License-Identifier: Apache-2.0
"""Telling a service manager how the daemon is: sd_notify(3), a datagram to the socket it names.

Without a manager nothing is sent, and nothing fails.
"""

import asyncio
import os
import socket
from collections.abc import Mapping

_PARTS = 2  # a life sign twice in the time that is allowed between two


class Manager:
    """The service manager that started this process, if one did."""

    def __init__(self, environment: Mapping[str, str] = os.environ, process: int | None = None) -> None:
        """Read where to send to, and how often it wants a life sign (sd_watchdog_enabled(3))."""
        path = environment.get("NOTIFY_SOCKET", "")
        self._address = "\0" + path[1:] if path.startswith("@") else path
        watched = environment.get("WATCHDOG_PID", "") in ("", str(process or os.getpid()))
        interval = environment.get("WATCHDOG_USEC", "")
        self._interval = int(interval) / 1e6 / _PARTS if watched and interval.isdecimal() and self._address else 0.0

    def tell(self, **state: str) -> None:
        """Send ``NAME=value`` lines; a manager that does not listen is no reason to stop."""
        if not self._address:
            return
        text = "\n".join(f"{name}={value}" for name, value in state.items())
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
            channel.setblocking(False)
            try:
                channel.sendto(text.encode(), self._address)
            except OSError:
                return

    def ready(self, status: str) -> None:
        """Say that it serves."""
        self.tell(READY="1", STATUS=status)

    def reloading(self) -> None:
        """Say that it reads its settings again; :meth:`ready` is the end of that."""
        self.tell(RELOADING="1")

    def stopping(self) -> None:
        """Say that it ends."""
        self.tell(STOPPING="1")

    async def stay_alive(self) -> None:
        """Give life signs from the event loop, so that one that hangs gives none; returns where none is wanted."""
        while self._interval:
            self.tell(WATCHDOG="1")
            await asyncio.sleep(self._interval)

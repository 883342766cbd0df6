# SPDX-License-Identifier: Apache-2.0
"""Switches of the host that the load balancer sets, and puts back when it is taken down.

The old values are kept in ``/run/loxilb/<namespace>/host.json``: they have to outlive the process, since
another one (``loxilb down``) puts them back, and must not outlive the boot.
"""

import json
from contextlib import suppress
from pathlib import Path

from loxilb.kernel import netns

_PROC = Path("/proc/sys")  # shows the namespace of the thread that opens a file
_STATE = Path("/run/loxilb")
# The last: packets from our own addresses that the kernel has to fragment are given to it through the loopback.
_FORWARDING = ("net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding", "net/ipv4/conf/lo/accept_local")
_ON = "1"


class HostSwitches:
    """Sysctls and the loopback's state, with a memory on disk of what they were."""

    def __init__(self) -> None:
        """Find the memory of the calling thread's namespace."""
        self._file = _STATE / netns.identity() / "host.json"

    @property
    def remembered(self) -> int:
        """How many switches there are to put back."""
        return len(self._load())

    def enable_forwarding(self) -> None:
        """Let the kernel forward IPv4 and IPv6, also from its own addresses where only it sends; raises OSError.

        With IPv6 forwarding on, an interface takes router advertisements only when its ``accept_ra`` is 2.
        """
        for name in _FORWARDING:
            self._switch_on(name)

    def restore(self) -> bool:
        """Put back what is still as we left it; true when the loopback was down before us."""
        before = self._load()
        for name, value in before.items():
            path = _PROC / name
            if name in _FORWARDING and path.exists() and path.read_text().strip() == _ON:
                path.write_text(value)
        self._file.unlink(missing_ok=True)
        for folder in (self._file.parent, _STATE):
            with suppress(OSError):  # it is not empty, a volume of our container, or in somebody else's directory
                folder.rmdir()
        return "lo" in before

    def remember_loopback_down(self) -> None:
        """Remember that the loopback was down before we needed it."""
        self._remember("lo", "down")

    def _switch_on(self, name: str) -> None:
        path = _PROC / name
        if not path.exists():  # IPv6 can be left out of a kernel
            return
        value = path.read_text().strip()
        if value != _ON:
            self._remember(name, value)
            path.write_text(_ON)

    def _remember(self, name: str, value: str) -> None:
        before = self._load()
        if name not in before:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            self._file.write_text(json.dumps(before | {name: value}))

    def _load(self) -> dict[str, str]:
        try:
            loaded: dict[str, str] = json.loads(self._file.read_text())
        except FileNotFoundError:
            return {}
        return loaded

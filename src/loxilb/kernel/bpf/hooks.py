# SPDX-License-Identifier: Apache-2.0
"""Where the programs are attached: the interfaces that are taken and the socket calls, kept so."""

import socket
from collections.abc import Callable, Mapping
from pathlib import Path

import structlog

from loxilb.errors import KernelError
from loxilb.kernel.bpf import attach, pins, sockets
from loxilb.kernel.bpf.egress import EgressHooks
from loxilb.kernel.bpf.guard import PinGuard
from loxilb.kernel.bpf.settings import DataPlaneSettings, XdpPolicy
from loxilb.model import Port
from loxilb.model.port import XDP_BY_DEFAULT, IfIndex
from loxilb.ports import Tampering

_log = structlog.get_logger(__name__)


class Hooks:
    """The hooks of one data plane; one thread at a time.

    ``egress`` is the one for replies of this host; ``program`` loads the program of a hook, ``socket_programs`` those
    of socket calls.
    """

    def __init__(
        self,
        directory: pins.PinDirectory,
        pinned: Callable[[], Mapping[Path, Mapping[str, int]]],
        settings: DataPlaneSettings,
        program: Callable[[str], int],
        socket_programs: Callable[[], Mapping[str, int]],
    ) -> None:
        """Start attached to nothing; ``pinned`` returns the pins that are kept: descriptors by folder and name."""
        self.egress = EgressHooks(directory, lambda: program("egress"))
        self._directory = directory
        self._settings = settings
        self._program = program
        self._socket_programs = socket_programs
        self._guard = PinGuard(directory, pinned)
        self._taken: dict[IfIndex, tuple[str, ...]] = {}

    def close(self) -> None:
        """Let go of the links; their pins keep them."""
        self._guard.close()

    def take(self, port: Port) -> tuple[str, ...]:
        """Attach to an interface; returns the hooks taken, in packet order; raises KernelError."""
        hooks = ("xdp",) if self._take_xdp(port) else ()
        taken = attach.attach_tc(self._directory, port.index, self._program("tc"))
        self.egress.take(port.index)
        self._taken[port.index] = (*hooks, taken)
        return self._taken[port.index]

    def leave(self, index: IfIndex) -> None:
        """Detach from an interface; it may be gone; raises KernelError."""
        attach.detach(self._directory, index)
        self.egress.leave(index)
        self._taken.pop(index, None)

    def serve_sockets(self) -> None:
        """Attach to socket calls, or detach from them, as the settings say; raises KernelError."""
        if self._settings.local_sockets:
            sockets.attach(self._directory, self._socket_programs())
        else:
            sockets.detach(self._directory)

    def check(self) -> Tampering:
        """Pin again what lost its pin, serve socket calls again, and tell what else others have done.

        An interface that is gone took its programs along: that is no loss. Raises KernelError.
        """
        restored = self._guard.restore()
        lost = frozenset(index for index, hooks in self._taken.items() if not self._runs(index, hooks))
        if lost:
            lost &= {index for index, _ in socket.if_nameindex()}
        calls = self._guard.missing(sockets.link_names()) if self._settings.local_sockets else ()
        if calls:
            self.serve_sockets()
        return Tampering(pins=restored, sockets=len(calls), interfaces=lost)

    def _take_xdp(self, port: Port) -> bool:
        policy = self._settings.xdp
        if policy is XdpPolicy.OFF or (policy is XdpPolicy.AUTO and port.kind not in XDP_BY_DEFAULT):
            pins.remove(self._directory.link_path("xdp", port.index))
            return False
        try:
            attach.attach_xdp(self._directory, port.index, self._program("xdp"))
        except KernelError as error:
            if policy is XdpPolicy.ON:
                _log.warning("XDP refused", interface=port.name, cause=error.cause, remedy=error.remedy)
            return False
        return True

    def _runs(self, index: IfIndex, hooks: tuple[str, ...]) -> bool:
        """Tell whether every program is attached to an interface that is taken."""
        if "clsact" in hooks:
            running = attach.has_clsact(index) and (not self.egress.wanted or attach.has_egress_clsact(index))
            return running and not self._guard.missing([f"xdp-{index}"] if "xdp" in hooks else ())
        egress = ("egress",) if self.egress.wanted else ()
        return not self._guard.missing(f"{hook}-{index}" for hook in (*hooks, *egress))

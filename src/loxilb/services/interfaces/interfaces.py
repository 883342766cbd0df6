# SPDX-License-Identifier: Apache-2.0
"""Attaching the data plane to interfaces, at the start and while they come, change and go."""

import errno
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from types import MappingProxyType
from typing import Protocol

import structlog

from loxilb.errors import KernelError
from loxilb.model import IPAddress, Port
from loxilb.model.port import IfIndex
from loxilb.ports import Links
from loxilb.services.interfaces.filter import InterfaceFilter

_MANY = 16
"""Interfaces that are too many to attach to each in its own time."""

_log = structlog.get_logger(__name__)


class Attachable(Protocol):
    """A data plane as far as its interfaces go."""

    def attach(self, port: Port) -> tuple[str, ...]:
        """Work on ``port``, idempotent; return the hooks taken, as ``("tcx",)``; raises KernelError."""

    def detach(self, index: IfIndex) -> None:
        """Leave an interface, idempotent; raises KernelError."""

    def hurried(self) -> AbstractContextManager[None]:
        """Be quick to attach meanwhile, at a cost to the whole host."""

    def know_addresses(self, addresses: frozenset[IPAddress]) -> None:
        """Learn all addresses of this host; raises KernelError."""


class Interfaces:
    """The interfaces the data plane is attached to; called from one thread at a time."""

    def __init__(self, data_plane: Attachable, links: Links, chosen: InterfaceFilter) -> None:
        """Start attached to none."""
        self._data_plane = data_plane
        self._links = links
        self._chosen = chosen
        self._hooks: dict[IfIndex, tuple[str, ...]] = {}
        self._names: dict[IfIndex, str] = {}
        self._owed: set[IfIndex] = set()
        self._refusals: dict[IfIndex, KernelError] = {}

    @property
    def hooks(self) -> Mapping[IfIndex, tuple[str, ...]]:
        """The hooks taken on each interface; a view that follows."""
        return MappingProxyType(self._hooks)

    def attach_all(self) -> None:
        """Attach to every interface that the filter takes; raises KernelError when they cannot be listed.

        An interface that refuses is logged and left out, until :meth:`follow`.
        """
        ports = {port.index: port for port in self._ports()}
        with self._pace(len(ports)):
            for port in ports.values():
                self._bring_in_line(port.index, ports)

    def follow(self, changed: Collection[IfIndex], removed: Collection[IfIndex]) -> None:
        """Attach or detach interfaces that are new or different, forget those that are gone.

        Those that failed before are tried again. Raises KernelError when one fails, after all others were followed.
        """
        self._owed.update(changed, self._refusals)
        for index in removed:
            self._bring_in_line(index, {})
        if self._owed:
            ports = {port.index: port for port in self._ports()}
            with self._pace(len(self._owed)):
                for index in tuple(self._owed):
                    self._bring_in_line(index, ports)
                    self._owed.discard(index)
        for refusal in self._refusals.values():
            raise refusal

    def _pace(self, count: int) -> AbstractContextManager[None]:
        """Be quick where there is much to do."""
        return self._data_plane.hurried() if count >= _MANY else nullcontext()

    def _bring_in_line(self, index: IfIndex, ports: Mapping[IfIndex, Port]) -> None:
        """Take an interface or leave it; one that refuses stays as it is, to be tried another time."""
        before = self._refusals.pop(index, None)
        try:
            if index in ports:
                self._follow(ports[index], ports)
            else:
                self._leave(index)
        except KernelError as error:
            if error.errno == errno.ENODEV and index in ports:  # gone since they were listed
                self._bring_in_line(index, {})
                return
            self._refusals[index] = error
            if before is None or before.cause != error.cause:
                name = ports[index].name if index in ports else self._names[index]
                _log.error("interface not followed", interface=name, cause=error.cause, remedy=error.remedy)

    def _leave(self, index: IfIndex) -> None:
        if index in self._hooks:
            self._data_plane.detach(index)
            del self._hooks[index]
            _log.info("interface left", interface=self._names.pop(index), index=index)

    def _ports(self) -> Sequence[Port]:
        """Return every interface; the data plane learns the addresses, those of interfaces left out too."""
        ports = self._links.ports()
        self._data_plane.know_addresses(frozenset(one.ip for port in ports for one in port.addresses))
        return ports

    def summary(self) -> str:
        """Return what was taken, for people: ``2 interfaces (tcx eth0 eth1; xdp none)``."""
        by_hook = (f"{hook} {' '.join(self._with(hook)) or 'none'}" for hook in self._hook_names())
        count = len(self._hooks)
        return f"{count} interface{'' if count == 1 else 's'} ({'; '.join(by_hook)})"

    def _hook_names(self) -> list[str]:
        tc = sorted({hook for hooks in self._hooks.values() for hook in hooks} - {"xdp"})
        return [*(tc or ["tcx"]), "xdp"]

    def _with(self, hook: str) -> list[str]:
        return [self._names[index] for index, hooks in sorted(self._hooks.items()) if hook in hooks]

    def _follow(self, port: Port, ports: Mapping[IfIndex, Port]) -> None:
        if not self._chosen.takes(port, ports.get(port.master) if port.master else None):
            self._leave(port.index)
            return
        hooks = self._data_plane.attach(port)
        if self._hooks.get(port.index) != hooks:
            _log.info("interface taken", interface=port.name, index=port.index, hooks=" ".join(hooks))
        before = self._names.get(port.index, port.name)
        if before != port.name:
            _log.info("interface renamed", interface=port.name, index=port.index, before=before)
        self._hooks[port.index] = hooks
        self._names[port.index] = port.name

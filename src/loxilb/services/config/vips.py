# SPDX-License-Identifier: Apache-2.0
"""Which addresses the host holds for its services, counted by service."""

from collections import Counter
from collections.abc import Callable, Iterable

import structlog

from loxilb.errors import KernelError
from loxilb.model import IPAddress, Service
from loxilb.ports import VipHost

_FOREIGN_NAMES = ("ipvs", "static")

_log = structlog.get_logger(__name__)


def vip_of(service: Service) -> IPAddress | None:
    """Return the address to hold for ``service``.

    None for the unspecified address, and for services whose name contains ``ipvs`` or ``static``: somebody
    else takes care of their addresses.
    """
    address = service.data_address
    foreign = any(word in service.name for word in _FOREIGN_NAMES)
    return None if foreign or address.is_unspecified else address


class VipBook:
    """Holds an address from its first service to its last."""

    def __init__(self, host: VipHost) -> None:
        """Start with no address held for a service."""
        self._host = host
        self._services: Counter[IPAddress] = Counter()

    def follow(self, before: Iterable[Service], after: Iterable[Service]) -> None:
        """Hold what ``after`` needs anew and release what only ``before`` needed, all or none.

        Raises KernelError.
        """
        services = self._services.copy()
        services.update(filter(None, map(vip_of, after)))
        services.subtract(filter(None, map(vip_of, before)))
        needed = +services
        self._carry_out(
            [
                *((self._host.hold, self._host.release, one) for one in needed if one not in self._services),
                *((self._host.release, self._host.hold, one) for one in self._services if one not in needed),
            ]
        )
        self._services = needed

    def _carry_out(self, steps: "list[tuple[_Step, _Step, IPAddress]]") -> None:
        done: list[tuple[_Step, IPAddress]] = []
        try:
            for step, undo, address in steps:
                step(address)
                done.append((undo, address))
        except KernelError:
            for undo, address in reversed(done):
                _undo(undo, address)
            raise


_Step = Callable[[IPAddress], None]


def _undo(undo: _Step, address: IPAddress) -> None:
    try:
        undo(address)
    except KernelError as error:
        _log.error("address not restored", address=str(address), cause=error.cause)

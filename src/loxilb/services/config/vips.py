# SPDX-License-Identifier: Apache-2.0
"""Which addresses the host holds for its services, counted by service."""

from collections import Counter
from collections.abc import Callable, Iterable
from itertools import chain

import structlog

from loxilb.errors import KernelError
from loxilb.model import IPAddress, Service
from loxilb.ports import VipHost

_FOREIGN_NAMES = ("ipvs", "static")

_log = structlog.get_logger(__name__)


def vips_of(service: Service) -> tuple[IPAddress, ...]:
    """Return the addresses to hold for ``service``.

    Not the unspecified address, and none for services whose name contains ``ipvs`` or ``static``: somebody
    else takes care of their addresses.
    """
    if any(word in service.name for word in _FOREIGN_NAMES):
        return ()
    addresses = (service.data_address, *service.secondary_addresses)
    return tuple(address for address in addresses if not address.is_unspecified)


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
        services.update(chain.from_iterable(map(vips_of, after)))
        services.subtract(chain.from_iterable(map(vips_of, before)))
        needed = +services
        self._carry_out(
            [
                *((self._host.hold, self._host.release, one) for one in needed if one not in self._services),
                *((self._host.release, self._host.hold, one) for one in self._services if one not in needed),
            ]
        )
        self._services = needed

    def refresh(self) -> None:
        """Follow the subnets of what is held; raises KernelError."""
        self._host.refresh()

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

# SPDX-License-Identifier: Apache-2.0
"""Which addresses the host holds for its services, counted by service."""

from collections import Counter
from collections.abc import Iterable, Sequence
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
    if service.name and any(word in service.name for word in _FOREIGN_NAMES):
        return ()
    addresses = (service.data_address, *service.secondary_addresses)
    return tuple([address for address in addresses if not address.is_unspecified])


class VipBook:
    """Holds an address from its first service to its last."""

    def __init__(self, host: VipHost) -> None:
        """Start with no address held for a service."""
        self._host = host
        self._services: Counter[IPAddress] = Counter()

    def follow(self, before: Iterable[Service | None], after: Iterable[Service | None]) -> None:
        """Hold what ``after`` needs anew and release what only ``before`` needed, all or none; None needs nothing.

        Raises KernelError.
        """
        change: Counter[IPAddress] = Counter()
        change.update(chain.from_iterable(map(vips_of, filter(None, after))))
        change.subtract(chain.from_iterable(map(vips_of, filter(None, before))))
        new = [one for one, by in change.items() if by > 0 and one not in self._services]
        gone = [one for one, by in change.items() if by < 0 and self._services[one] + by <= 0]
        self._host.hold(*new)
        try:
            self._host.release(*gone)
        except KernelError:
            self._undo(new)
            raise
        self._services.update(change)
        for address in gone:
            del self._services[address]

    def refresh(self) -> None:
        """Follow the subnets of what is held; raises KernelError."""
        self._host.refresh()

    def _undo(self, held: Sequence[IPAddress]) -> None:
        try:
            self._host.release(*held)
        except KernelError as error:
            _log.error("addresses not given up again", addresses=len(held), cause=error.cause)

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


def _vips_of(service: Service) -> tuple[IPAddress, ...]:
    """Return the addresses to hold for ``service``.

    None for services whose name contains ``ipvs`` or ``static``: somebody else takes care of their addresses.
    """
    if service.name and any(word in service.name for word in _FOREIGN_NAMES):
        return ()
    return (service.data_address, *service.secondary_addresses)


def _counted(services: Iterable[Service | None]) -> Counter[IPAddress]:
    """Count how many services need each address; the unspecified one is never held.

    Each object is looked at once: many services share one, and comparing addresses is slow.
    """
    addresses = list(chain.from_iterable(map(_vips_of, filter(None, services))))
    objects = {id(address): address for address in addresses}
    found: Counter[IPAddress] = Counter()
    for number, count in Counter(map(id, addresses)).items():
        if not objects[number].is_unspecified:
            found[objects[number]] += count
    return found


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
        change = _counted(after)
        change.subtract(_counted(before))
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

# SPDX-License-Identifier: Apache-2.0
"""Which addresses the host holds for its services, counted by service."""

from collections import Counter
from collections.abc import Iterable, Sequence

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
    addresses = [address for service in services if service for address in _vips_of(service)]
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
        self._owed: set[IPAddress] = set()

    def follow(
        self, before: Iterable[Service | None], after: Iterable[Service | None], *, starting: bool = False
    ) -> None:
        """Hold what ``after`` needs anew and release what only ``before`` needed, all or none; None needs nothing.

        ``starting`` owes what is refused to be held, as one address must keep no other service from its start; it is
        tried again by :meth:`refresh`. Raises KernelError.
        """
        change = _counted(after)
        change.subtract(_counted(before))
        new = [one for one, by in change.items() if by > 0 and one not in self._services]
        gone = [one for one, by in change.items() if by < 0 and self._services[one] + by <= 0]
        if starting:
            self._hold_or_owe(new)
        else:
            self._host.hold(*new)
        try:
            self._host.release(*gone)
        except KernelError:
            self._undo(new)
            raise
        self._services.update(change)
        self._owed.difference_update(gone)
        for address in gone:
            del self._services[address]

    def refresh(self) -> None:
        """Hold what is owed, and follow the subnets of what is held; raises KernelError, after all that could be."""
        failure = self._hold_each(self._owed)
        self._host.refresh()
        if failure is not None:
            raise failure

    def settle(self) -> bool:
        """Refresh at a start, and tell whether all are held where they belong; what is not is logged."""
        try:
            self.refresh()
        except KernelError as error:
            _log.error("service addresses not held, trying again", cause=error.cause, remedy=error.remedy)
            return False
        return True

    def _hold_or_owe(self, addresses: Sequence[IPAddress]) -> None:
        try:
            self._host.hold(*addresses)
        except KernelError:
            self._owed.update(addresses)
            self._hold_each(addresses)

    def _hold_each(self, addresses: Iterable[IPAddress]) -> KernelError | None:
        """Hold addresses one by one, which are owed no longer then; return why one could not be."""
        failure = None
        for address in tuple(addresses):
            try:
                self._host.hold(address)
            except KernelError as error:
                failure = error
            else:
                self._owed.discard(address)
        return failure

    def _undo(self, held: Sequence[IPAddress]) -> None:
        try:
            self._host.release(*held)
        except KernelError as error:
            _log.error("addresses not given up again", addresses=len(held), cause=error.cause)

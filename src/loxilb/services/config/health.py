# SPDX-License-Identifier: Apache-2.0
"""What is known of the health of endpoints, and which services use them."""

from collections import defaultdict
from collections.abc import Collection, Mapping

from loxilb.model import Service, ServiceKey
from loxilb.model.probe import Availability, EndpointKey, HostState

_SAID = {
    HostState.GREEN: Availability.UP,
    HostState.YELLOW: Availability.DRAINING,
    HostState.RED: Availability.OUT,
}


def said(states: Mapping[str, HostState]) -> dict[EndpointKey, Availability]:
    """Return what follows for services from what an operator says, known before anything is probed."""
    keys = ((EndpointKey.parse(name), state) for name, state in states.items())
    return {key: _SAID[state] for key, state in keys if key is not None}


class HealthBook:
    """Endpoints that are not up, and the users of every endpoint.

    Most endpoints are never asked for. So who uses which is found out with the first question, and again where it has
    changed with the next one: until then a change costs next to nothing.
    """

    def __init__(self, services: Mapping[ServiceKey, Service]) -> None:
        """Start with every endpoint up."""
        self.states: dict[EndpointKey, Availability] = {}
        self._users: defaultdict[EndpointKey, set[ServiceKey]] = defaultdict(set)
        self._services: dict[ServiceKey, Service] = {}
        self._stale: dict[ServiceKey, Service | None] = dict(services)

    def follow(self, changes: Mapping[ServiceKey, Service | None]) -> None:
        """Note which services there are now (None: deleted)."""
        self._stale.update(changes)

    def put(self, changes: Mapping[EndpointKey, Availability]) -> dict[EndpointKey, Availability]:
        """Note the states of endpoints; returns what they were."""
        before = {key: self.states.get(key, Availability.UP) for key in changes}
        for key, state in changes.items():
            if state is Availability.UP:
                self.states.pop(key, None)
            else:
                self.states[key] = state
        return before

    def users(self, keys: Collection[EndpointKey]) -> set[ServiceKey]:
        """Return the services that use any of ``keys``."""
        if keys:
            self._index()
        return set().union(*(self._users.get(key, ()) for key in keys))

    def used(self) -> frozenset[EndpointKey]:
        """Return every endpoint that a service uses."""
        self._index()
        return frozenset(self._users)

    def _index(self) -> None:
        """Note who uses what, of the services that have changed since the last time."""
        for key, service in self._stale.items():
            before, after = _used(self._services.pop(key, None)), _used(service)
            if service:
                self._services[key] = service
            for gone in before:
                if gone not in after:
                    self._users[gone].discard(key)
                    if not self._users[gone]:
                        del self._users[gone]
            for one in after:
                self._users[one].add(key)
        self._stale.clear()


def _used(service: Service | None) -> Collection[EndpointKey]:
    return dict.fromkeys([EndpointKey.of(service, one) for one in service.endpoints]) if service else ()

# SPDX-License-Identifier: Apache-2.0
"""What is known of the health of endpoints, and which services use them."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping

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
    """Endpoints that are not up, and the users of every endpoint."""

    def __init__(self) -> None:
        """Start with every endpoint up and no service."""
        self.states: dict[EndpointKey, Availability] = {}
        self._users: defaultdict[EndpointKey, set[ServiceKey]] = defaultdict(set)
        self._services: dict[ServiceKey, Service] = {}

    def follow(self, changes: Mapping[ServiceKey, Service | None]) -> None:
        """Note which endpoints the services use now (None: none)."""
        for key, service in changes.items():
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

    def put(self, changes: Mapping[EndpointKey, Availability]) -> dict[EndpointKey, Availability]:
        """Note the states of endpoints; returns what they were."""
        before = {key: self.states.get(key, Availability.UP) for key in changes}
        for key, state in changes.items():
            if state is Availability.UP:
                self.states.pop(key, None)
            else:
                self.states[key] = state
        return before

    def users(self, keys: Iterable[EndpointKey]) -> set[ServiceKey]:
        """Return the services that use any of ``keys``."""
        return set().union(*(self._users.get(key, ()) for key in keys))


def _used(service: Service | None) -> Collection[EndpointKey]:
    return dict.fromkeys([EndpointKey.of(service, one) for one in service.endpoints]) if service else ()

# SPDX-License-Identifier: Apache-2.0
"""Writes in the store: durable before they are carried out, taken back when they are refused."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TypeVar

import structlog

from loxilb.errors import LoxilbError, StoreError
from loxilb.model import Service, ServiceKey
from loxilb.model.probe import EndpointKey, HostState, MonitoredEndpoint
from loxilb.model.revision import DAEMON, Author, Changes, Configured, Revision
from loxilb.plan import summary
from loxilb.ports import ChangeWatcher, Recording, Store
from loxilb.services.config.health import HealthBook

_V = TypeVar("_V")

_log = structlog.get_logger(__name__)


class StoreJournal:
    """The store as the configuration service uses it, and what is configured besides services."""

    def __init__(self, store: Store, clock: Callable[[], float]) -> None:
        """Use ``store``; ``clock`` returns seconds since 1970."""
        self._store = store
        self._clock = clock
        self._refused: int | None = None
        self._watchers: list[ChangeWatcher] = []
        self.endpoints: dict[str, MonitoredEndpoint] = {}
        self.states: dict[str, HostState] = {}
        self.parameters: dict[str, str] = {}

    def watch(self, watcher: ChangeWatcher) -> None:
        """Tell ``watcher`` of every change from now on."""
        self._watchers.append(watcher)

    def load(self) -> Configured:
        """Read everything; raises StoreError."""
        stored = self._store.load()
        self.endpoints = dict(stored.endpoints)
        self.states = dict(stored.states)
        self.parameters = dict(stored.parameters)
        return stored

    @contextmanager
    def recording(self, changes: Changes, author: Author, summary: str) -> Iterator[Recording]:
        """Record a write while the body runs, which finishes it when it can be carried out; raises StoreError."""
        self._settle()
        recording = self._store.record(changes, author, summary, self._clock())
        try:
            yield recording
        finally:
            recording.abandon()

    def adopt(self, changes: Changes) -> None:
        """Keep what the data plane held already; raises StoreError."""
        with self.recording(changes, DAEMON, f"take over from the data plane: {summary(changes, ())}") as recording:
            self._store.confirm(recording.finish())

    def completed(self, changes: Changes, used: HealthBook) -> Changes:
        """Return ``changes`` without what is so already, and with the states that nobody needs any more taken away."""
        endpoints = _different(changes.endpoints, self.endpoints)
        states = _different(changes.states, self.states)
        states |= dict.fromkeys(self._unneeded(endpoints, changes.services, used))
        return Changes(
            services=changes.services,
            endpoints=endpoints,
            states=states,
            parameters=_different(changes.parameters, self.parameters),
        )

    def _unneeded(
        self,
        endpoints: Mapping[str, MonitoredEndpoint | None],
        services: Mapping[ServiceKey, Service | None],
        used: HealthBook,
    ) -> Iterator[str]:
        """Return the endpoints with a state that neither an operator asks for nor a service uses after a write."""
        if not self.states:
            return
        using = {EndpointKey.of(one, endpoint) for one in services.values() if one for endpoint in one.endpoints}
        for name in self.states:
            key = EndpointKey.parse(name)
            told = endpoints.get(name) if name in endpoints else self.endpoints.get(name)
            if told is None and (key is None or (key not in using and not used.users((key,)) - services.keys())):
                yield name

    @contextmanager
    def carrying_out(self, number: int) -> Iterator[None]:
        """Confirm the newest revision when the body ends, take it back when it raises."""
        try:
            yield
        except BaseException:
            self.take_back(number)
            raise
        self.confirm(number)

    def confirm(self, number: int) -> None:
        """Note that the newest revision was carried out."""
        try:
            self._store.confirm(number)
        except StoreError as error:
            # It is durable and done. The next start finds it unconfirmed, and carries it out again.
            _log.warning("revision not confirmed", revision=number, cause=error.cause, remedy=error.remedy)

    def take_back(self, number: int) -> None:
        """Undo the newest revision, now or before the next write."""
        self._refused = number
        try:
            self._settle()
        except StoreError as error:
            _log.error("refused write still in the store", revision=number, cause=error.cause, remedy=error.remedy)

    def follow(self, changes: Changes) -> None:
        """Note what is durable and done besides services, and tell the watchers."""
        _update(self.endpoints, changes.endpoints)
        _update(self.states, changes.states)
        _update(self.parameters, changes.parameters)
        for watcher in self._watchers:
            watcher.changed(changes)

    def revisions(self, limit: int) -> Sequence[Revision]:
        """Return the newest revisions, newest first; raises StoreError."""
        return self._store.revisions(limit)

    def back_to(self, number: int) -> Changes:
        """Return what leads back to a revision; raises NotFound and StoreError."""
        self._settle()
        return self._store.back_to(number)

    def close(self) -> None:
        """Take back what still has to be."""
        try:
            self._settle()
        except LoxilbError as error:
            _log.error("refused write still in the store", cause=error.cause, remedy=error.remedy)

    def _settle(self) -> None:
        if self._refused is not None:
            self._store.take_back(self._refused)
            self._refused = None


def _different(changes: Mapping[str, _V | None], kept: Mapping[str, _V]) -> dict[str, _V | None]:
    return {name: value for name, value in changes.items() if kept.get(name) != value}


def _update(kept: dict[str, _V], changes: Mapping[str, _V | None]) -> None:
    for name, value in changes.items():
        if value is None:
            kept.pop(name, None)
        else:
            kept[name] = value

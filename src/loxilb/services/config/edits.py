# SPDX-License-Identifier: Apache-2.0
"""What a write makes of the services that are there: pure functions from before and request to after."""

from collections import defaultdict, deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from msgspec.structs import replace

from loxilb.errors import Conflict, InvalidRequest, NotFound
from loxilb.model import Endpoint, IPAddress, Mode, Service, ServiceKey
from loxilb.model.service import DEFAULT_DRAIN_S, DEFAULT_PERSISTENCE_S
from loxilb.plan import all_in_rule_order, in_address_order, in_rule_order
from loxilb.ports import Edit, EditKind

_Place = tuple[IPAddress, int]


class _UnchangedError(Conflict):
    """Everything is as asked for already."""


_FIXED: tuple[tuple[str, str, Callable[[Service], object]], ...] = (
    ("secondaryIPs", "secIP modify error", lambda s: sorted(s.secondary_addresses, key=int)),
    ("security", "lbrule-exist error: cant modify rule security mode", lambda s: s.security),
    ("egress", "lbrule-exist error: cant modify rule egress mode", lambda s: s.egress),
    ("mode", "lbrule-exist error: cant modify fullproxy rule mode", lambda s: s.mode is Mode.FULLPROXY),
)
"""Fields that stay as they were created: wire name, error code, value."""


def normal(service: Service) -> Service:
    """Return ``service`` as it is kept.

    Endpoints in rule order, allowed sources each once and secondary addresses by address, the timeout spelt out, those
    of persistence and draining only where they are not the default.
    """
    ordered = in_rule_order(service.endpoints)
    if _is_plain(service) and ordered == service.endpoints:
        return service
    return replace(
        service,
        endpoints=ordered,
        inactive_timeout=service.timeout,
        persist_timeout=0 if service.persist_timeout == DEFAULT_PERSISTENCE_S else service.persist_timeout,
        drain_timeout=0 if service.drain_timeout == DEFAULT_DRAIN_S else service.drain_timeout,
        allowed_sources=in_address_order(service.allowed_sources),
        secondary_addresses=tuple(sorted(service.secondary_addresses, key=int)),
    )


def all_normal(services: Collection[Service]) -> list[Service]:
    """Return services as they are kept; nearly all of very many are already."""
    ordered = all_in_rule_order([one.endpoints for one in services])
    return [
        one if one.endpoints is endpoints and _is_plain(one) else normal(one)
        for one, endpoints in zip(services, ordered, strict=True)
    ]


def _is_plain(service: Service) -> bool:
    """Tell of most services that nothing of them is kept otherwise, but maybe the order of their endpoints."""
    listed = service.allowed_sources or service.secondary_addresses
    return bool(service.inactive_timeout and not (listed or service.persist_timeout or service.drain_timeout))


def replaced(before: Service | None, wanted: Service) -> Service:
    """Return what is kept after ``wanted`` was put.

    Endpoints that were there keep their order, new ones follow; ``managed`` stays as created. Raises Conflict
    when nothing changes or a fixed field would.
    """
    if before is None:
        return normal(wanted)
    for field, code, value in _FIXED:
        if value(before) != value(wanted):
            raise Conflict(code, field=field, cause=f"cannot change from {value(before)} to {value(wanted)}")
    merged = _merged(before.endpoints, wanted.endpoints)
    return _changed(before, replace(wanted, endpoints=merged, managed=before.managed))


def attached(before: Service | None, wanted: Service) -> Service:
    """Return what is kept after the endpoints of ``wanted`` were attached to ``before``.

    An endpoint that is there already only takes the new weight. Raises Conflict when nothing changes.
    """
    if before is None:
        return normal(wanted)
    new = {_place(endpoint): endpoint for endpoint in wanted.endpoints}
    kept = [new.get(_place(endpoint), endpoint) for endpoint in before.endpoints]
    present = {_place(endpoint) for endpoint in before.endpoints}
    added = [endpoint for place, endpoint in new.items() if place not in present]
    return _changed(before, before.with_endpoints((*kept, *added)))


def detached(before: Service | None, wanted: Service) -> Service | None:
    """Return what is kept after the endpoints of ``wanted`` were detached; None when none is left.

    Raises NotFound without a service, Conflict when it has none of the endpoints.
    """
    if before is None:
        raise NotFound("lbrule not-exists error", cause=f"no service {wanted.key.address} port {wanted.key.port}")
    gone = {_place(endpoint) for endpoint in wanted.endpoints}
    kept = tuple(endpoint for endpoint in before.endpoints if _place(endpoint) not in gone)
    return _changed(before, before.with_endpoints(kept)) if kept else None


_DETACH = EditKind.DETACH  # members of an Enum are slow to name
_EDITS: Mapping[EditKind, Callable[[Service | None, Service], Service | None]] = {
    EditKind.PUT: replaced,
    EditKind.ATTACH: attached,
    _DETACH: detached,
}


def edited(present: Mapping[ServiceKey, Service], edits: Sequence[Edit]) -> dict[ServiceKey, Service | None]:
    """Return what becomes of services by ``edits`` in order; what is as asked for already is left out.

    Raises what the single edits do, with the index of the one that is wrong.
    """
    after: dict[ServiceKey, Service | None] = {}
    kept = all_normal([edit.service for edit in edits])
    for index, (edit, wanted) in enumerate(zip(edits, kept, strict=True)):
        key = wanted.key
        before = after[key] if key in after else present.get(key)
        if before is None and edit.kind is not _DETACH:  # as most often of very many
            after[key] = wanted
            continue
        try:
            after[key] = _EDITS[edit.kind](before, edit.service)
        except _UnchangedError:
            continue
        except InvalidRequest as error:
            error.index = index
            raise
    return after


def matching_key(keys: Iterable[ServiceKey], wanted: ServiceKey) -> ServiceKey | None:
    """Return the only one of ``keys`` that differs from ``wanted`` by the host at most, else None.

    Clients that know no hosts delete by address, port and protocol.
    """
    found = [key for key in keys if replace(key, host="") == wanted]
    return found[0] if len(found) == 1 else None


def _place(endpoint: Endpoint) -> _Place:
    return endpoint.address, endpoint.port


def _merged(before: Sequence[Endpoint], wanted: Sequence[Endpoint]) -> tuple[Endpoint, ...]:
    """Return ``wanted`` with those first that were there before, in their order."""
    left: defaultdict[_Place, deque[Endpoint]] = defaultdict(deque)
    for endpoint in wanted:
        left[_place(endpoint)].append(endpoint)
    kept = [left[_place(endpoint)].popleft() for endpoint in before if left[_place(endpoint)]]
    added = [left[_place(endpoint)].popleft() for endpoint in wanted if left[_place(endpoint)]]
    return (*kept, *added)


def _changed(before: Service, after: Service) -> Service:
    after = normal(after)
    if after == before:
        raise _UnchangedError("lbrule-exists error", cause="the service is there and already as asked for")
    return after

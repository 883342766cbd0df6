# SPDX-License-Identifier: Apache-2.0
"""The configuration as documents: each object is kept as the REST body that creates it.

A body is documented, read by people, and stays readable: members added later have defaults. What the API can show of an
object is in its document.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from enum import Enum
from itertools import islice
from typing import TypeVar

from msgspec import MsgspecError, json

from loxiapi import wire
from loxilb.codec.documents import documents_of
from loxilb.codec.endpoints import body_of, endpoint_of
from loxilb.codec.rules import service_of
from loxilb.errors import InvalidRequest
from loxilb.model import Service, ServiceKey
from loxilb.model.probe import HostState, MonitoredEndpoint
from loxilb.model.revision import Changes


class Kind(Enum):
    """What a document is about; the value is its word in the store."""

    SERVICE = "service"
    ENDPOINT = "endpoint"
    STATE = "state"
    PARAMETER = "parameter"

    __hash__ = object.__hash__


Documents = Mapping[Kind, Mapping[str, str | None]]
"""The text of each object, by its kind and its name; None for one that is taken away."""


class UnreadableError(Exception):
    """A document that is none."""


_Key = TypeVar("_Key")
_Value = TypeVar("_Value")

_FAULTS = (MsgspecError, InvalidRequest, ValueError, KeyError)
_NONE: Mapping[str, str | None] = {}
_decode_rule = json.Decoder(wire.LoadBalancerEntry).decode
_decode_rules = json.Decoder(list[wire.LoadBalancerEntry]).decode
_encode = json.Encoder().encode
_PART = 4000


def parts_of(changes: Changes) -> Iterator[tuple[Kind, Mapping[str, str | None]]]:
    """Write ``changes``, some thousand documents of one kind at a time."""
    for services in _pieces(changes.services):
        yield Kind.SERVICE, documents_of(services)
    endpoints = {name: _text(body_of(one)) if one else None for name, one in changes.endpoints.items()}
    states = {name: one.value if one else None for name, one in changes.states.items()}
    for kind, documents in ((Kind.ENDPOINT, endpoints), (Kind.STATE, states), (Kind.PARAMETER, changes.parameters)):
        for some in _pieces(documents):
            yield kind, some


def _pieces(whole: Mapping[_Key, _Value]) -> Iterator[dict[_Key, _Value]]:
    rest = iter(whole.items())
    while some := dict(islice(rest, _PART)):
        yield some


def _text(body: wire.Wire) -> str:
    return _encode(body).decode()


def changes_of(documents: Documents, known: Documents) -> Changes:
    """Read documents back.

    ``known`` has a document of each service that is taken away, as its name alone does not tell its key.
    Raises UnreadableError.
    """
    return Changes(
        services=_services(documents.get(Kind.SERVICE, _NONE), known.get(Kind.SERVICE, _NONE)),
        endpoints=dict(_each(Kind.ENDPOINT, documents, _endpoint)),
        states=dict(_each(Kind.STATE, documents, HostState)),
        parameters=dict(_each(Kind.PARAMETER, documents, str)),
    )


def services_in(pages: Iterable[tuple[int, str]]) -> dict[ServiceKey, Service]:
    """Read services, each page the count of some documents, and these with commas between them.

    Raises UnreadableError, which does not know names.
    """
    services: dict[ServiceKey, Service] = {}
    for count, documents in pages:
        try:
            found = list(map(service_of, _decode_rules(f"[{documents}]")))
        except _FAULTS as error:
            raise UnreadableError(str(error)) from error
        if len(found) != count:
            raise UnreadableError(f"{len(found)} documents for {count}")
        services.update((one.key, one) for one in found)
    return services


def _services(documents: Mapping[str, str | None], known: Mapping[str, str | None]) -> dict[ServiceKey, Service | None]:
    services: dict[ServiceKey, Service | None] = {}
    for name, text in documents.items():
        try:
            service = service_of(_decode_rule(text or known[name] or ""))
        except _FAULTS as error:
            raise _unreadable(Kind.SERVICE, name, error) from error
        services[service.key] = service if text else None
    return services


def _each(kind: Kind, documents: Documents, read: Callable[[str], _Value]) -> Iterator[tuple[str, _Value | None]]:
    for name, text in documents.get(kind, _NONE).items():
        try:
            yield name, None if text is None else read(text)
        except _FAULTS as error:
            raise _unreadable(kind, name, error) from error


def _unreadable(kind: Kind, name: str, error: Exception) -> UnreadableError:
    return UnreadableError(f"{kind.value} {name}: {error}")


def _endpoint(text: str) -> MonitoredEndpoint:
    return endpoint_of(json.decode(text, type=wire.MonitoredEndpoint))

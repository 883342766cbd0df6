# SPDX-License-Identifier: Apache-2.0
"""The configuration as documents: each object is kept as the REST body that creates it.

A body is documented, read by people, and stays readable: members added later have defaults. What the API can show of an
object is in its document.
"""

from collections.abc import Iterator, Mapping
from enum import Enum
from typing import NamedTuple

from msgspec import MsgspecError, json

from loxiapi import wire
from loxilb.codec.endpoints import body_of as endpoint_body
from loxilb.codec.endpoints import endpoint_of
from loxilb.codec.rules import body_of, name_of, service_of
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


class Name(NamedTuple):
    """What tells documents apart."""

    kind: Kind
    text: str


class UnreadableError(Exception):
    """A document that is none."""


_decode_rule = json.Decoder(wire.LoadBalancerEntry).decode


def documents_of(changes: Changes) -> Iterator[tuple[Name, str | None]]:
    """Write ``changes``; None for what is taken away."""
    kind = Kind.SERVICE
    for key, service in changes.services.items():
        yield Name(kind, name_of(key)), service_document(service) if service else None
    for name, endpoint in changes.endpoints.items():
        yield Name(Kind.ENDPOINT, name), wire.encode(endpoint_body(endpoint)).decode() if endpoint else None
    for name, state in changes.states.items():
        yield Name(Kind.STATE, name), state.value if state else None
    for name, value in changes.parameters.items():
        yield Name(Kind.PARAMETER, name), value


def changes_of(documents: Mapping[Name, str | None], known: Mapping[Name, str]) -> Changes:
    """Read documents back.

    ``known`` has a document of each service that is taken away, as its name alone does not tell its key.
    Raises UnreadableError.
    """
    services: dict[ServiceKey, Service | None] = {}
    endpoints: dict[str, MonitoredEndpoint | None] = {}
    states: dict[str, HostState | None] = {}
    parameters: dict[str, str | None] = {}
    for name, text in documents.items():
        try:
            match name.kind:
                case Kind.SERVICE:
                    service = _service(known[name] if text is None else text)
                    services[service.key] = None if text is None else service
                case Kind.ENDPOINT:
                    endpoints[name.text] = None if text is None else _endpoint(text)
                case Kind.STATE:
                    states[name.text] = None if text is None else HostState(text)
                case Kind.PARAMETER:
                    parameters[name.text] = text
        except (MsgspecError, InvalidRequest, ValueError, KeyError) as error:
            raise UnreadableError(f"{name.kind.value} {name.text}: {error}") from error
    return Changes(services=services, endpoints=endpoints, states=states, parameters=parameters)


def service_document(service: Service) -> str:
    """Write a service without the live state of its endpoints."""
    return wire.encode(body_of(service)).decode()


def _service(text: str) -> Service:
    return service_of(_decode_rule(text))


def _endpoint(text: str) -> MonitoredEndpoint:
    return endpoint_of(json.decode(text, type=wire.MonitoredEndpoint))

# SPDX-License-Identifier: Apache-2.0
"""The operations: one method each, from parsed parameters and a decoded body to a wire answer."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from msgspec import Struct

from loxiapi import wire
from loxiapi.openapi import document
from loxilb.codec.endpoints import choice_of, endpoint_of, host_state_of, status_entry_of
from loxilb.codec.flows import query_of
from loxilb.codec.rules import address_of, edits_of, entry_of, protocol_of, service_of
from loxilb.codec.times import shown_time
from loxilb.collector import without_collector
from loxilb.errors import InvalidRequest, NotFound
from loxilb.model import L4Protocol, ServiceKey
from loxilb.model.revision import LOG_LEVEL, Author, Revision
from loxilb.ports import NOBODY, Configuration, Endpoints
from loxilb.services.api.conntrack import conntrack
from loxilb.services.api.observed import ports_of

_ANY_HOST = "any"
_NO_PROTOCOL = "none"
_REVISIONS = 100
_MOST_REVISIONS = 10_000


class LogLevel(Protocol):
    """The log level of the running daemon, one of ``loxiapi.wire.LOG_LEVELS``."""

    def get(self) -> str:
        """Return the level in force."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildInfo:
    """What ``GET /version`` answers; ``build`` is the build time and branch."""

    version: str
    build: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One request that keeps to the contract; query parameters not given are absent."""

    parameters: Mapping[str, Any] = field(default_factory=dict)
    body: Any = None
    author: Author = NOBODY


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """An answer that is not JSON."""

    content: bytes
    media: str
    status: int = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """A JSON answer in parts, made one after the other while they are sent."""

    parts: AsyncGenerator[bytes | memoryview, None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Lines:
    """An answer that goes on until the client goes away, or has no more to wait for."""

    parts: AsyncGenerator[bytes, None]
    media: str


Answer = Struct | dict[str, Any] | Text | Stream | Lines
Handler = Callable[[Call], Awaitable[Answer]]


class Handlers:
    """Carries operations out on a configuration; errors are those of ``loxilb.errors``."""

    def __init__(
        self, *, configuration: Configuration, endpoints: Endpoints, log_level: LogLevel, build: BuildInfo
    ) -> None:
        """Keep what the operations work on."""
        self._configuration = configuration
        self._endpoints = endpoints
        self._log_level = log_level
        self._build = build

    def by_operation(self) -> Mapping[str, Handler]:
        """Return the method for every operation of ``loxiapi.operations``."""
        return {
            "write_rule": self._write_rule,
            "list_rules": self._list_rules,
            "delete_all_rules": self._delete_all_rules,
            "delete_named_rules": self._delete_named_rules,
            "delete_rule": self._delete_rule,
            "delete_rule_range": self._delete_rule,
            "delete_host_rule": self._delete_host_rule,
            "delete_host_rule_range": self._delete_host_rule,
            "list_endpoints": self._list_endpoints,
            "write_endpoint": self._write_endpoint,
            "delete_endpoint": self._delete_endpoint,
            "set_endpoint_state": self._set_endpoint_state,
            "list_flows": self._list_flows,
            "list_ports": self._list_ports,
            "get_params": self._get_params,
            "set_params": self._set_params,
            "list_revisions": self._list_revisions,
            "roll_back": self._roll_back,
            "get_version": self._get_version,
            "get_document": self._get_document,
            "get_document_below_base": self._get_document,
        }

    async def _write_rule(self, call: Call) -> Answer:
        if isinstance(call.body, wire.LoadBalancerList):
            convert = without_collector(len(call.body.entries))(edits_of)
            edits = await asyncio.to_thread(convert, call.body)
            await self._configuration.write(edits, author=call.author)
            return wire.SUCCESS
        entry: wire.LoadBalancerEntry = call.body
        service = service_of(entry)
        match entry.service_arguments.oper:
            case wire.OPER_ATTACH:
                await self._configuration.attach(service, author=call.author)
            case wire.OPER_DETACH:
                await self._configuration.detach(service, author=call.author)
            case _:
                await self._configuration.put(service, author=call.author)
        return wire.SUCCESS

    async def _list_rules(self, _: Call) -> Answer:
        return wire.LoadBalancerList(entries=[entry_of(status) for status in await self._configuration.services()])

    async def _delete_all_rules(self, call: Call) -> Answer:
        await self._configuration.delete_all(author=call.author)
        return wire.SUCCESS

    async def _delete_named_rules(self, call: Call) -> Answer:
        await self._configuration.delete_named(call.parameters["lb_name"], author=call.author)
        return wire.SUCCESS

    async def _delete_rule(self, call: Call) -> Answer:
        await self._configuration.delete(_key_of(call.parameters, host=""), author=call.author)
        return wire.SUCCESS

    async def _delete_host_rule(self, call: Call) -> Answer:
        host = call.parameters["hosturl"]
        key = _key_of(call.parameters, host="" if host == _ANY_HOST else host)
        await self._configuration.delete(key, author=call.author)
        return wire.SUCCESS

    async def _list_endpoints(self, _: Call) -> Answer:
        statuses = await self._endpoints.endpoints()
        return wire.MonitoredEndpointList(entries=[status_entry_of(status) for status in statuses])

    async def _write_endpoint(self, call: Call) -> Answer:
        await self._endpoints.put_endpoint(endpoint_of(call.body), author=call.author)
        return wire.SUCCESS

    async def _delete_endpoint(self, call: Call) -> Answer:
        await self._endpoints.delete_endpoint(choice_of(call.parameters), author=call.author)
        return wire.SUCCESS

    async def _set_endpoint_state(self, call: Call) -> Answer:
        await self._endpoints.set_host_state(*host_state_of(call.body), author=call.author)
        return wire.SUCCESS

    async def _list_flows(self, call: Call) -> Answer:
        query, service = query_of(call.parameters), call.parameters.get("service")
        return Stream(parts=conntrack(await self._configuration.flows(query, service=service)))

    async def _list_ports(self, _: Call) -> Answer:
        return wire.PortList(entries=ports_of(await self._configuration.ports()))

    async def _get_params(self, _: Call) -> Answer:
        return wire.Params(log_level=self._log_level.get())

    async def _set_params(self, call: Call) -> Answer:
        params: wire.Params = call.body
        if not params.log_level:
            raise InvalidRequest("malformed-args error", field="logLevel", cause="a level is needed")
        await self._configuration.set_parameter(LOG_LEVEL, params.log_level, author=call.author)
        return wire.SUCCESS

    async def _list_revisions(self, call: Call) -> Answer:
        limit = call.parameters.get("limit", _REVISIONS)
        if not 1 <= limit <= _MOST_REVISIONS:
            raise InvalidRequest("malformed-args error", field="limit", cause=f"not within 1 to {_MOST_REVISIONS}")
        return wire.RevisionList(entries=[revision_of(one) for one in await self._configuration.revisions(limit)])

    async def _roll_back(self, call: Call) -> Answer:
        body: wire.Rollback = call.body
        await self._configuration.rollback(body.revision, author=call.author)
        return wire.SUCCESS

    async def _get_version(self, _: Call) -> Answer:
        return wire.Version(version=self._build.version, build_info=self._build.build)

    async def _get_document(self, _: Call) -> Answer:
        return document(version=self._build.version)


def revision_of(revision: Revision) -> wire.RevisionEntry:
    """Convert a revision."""
    return wire.RevisionEntry(
        number=revision.number,
        time=shown_time(revision.time),
        client=revision.author.address,
        agent=revision.author.agent,
        size=revision.size,
        summary=revision.summary,
    )


def _key_of(parameters: Mapping[str, Any], *, host: str) -> ServiceKey:
    """Read the key of the rule that a path names; raises InvalidRequest."""
    if parameters["proto"] == _NO_PROTOCOL:
        raise NotFound("no-rule error", cause="no rule has protocol none")
    protocol: L4Protocol = protocol_of(parameters["proto"], "proto")
    return ServiceKey(
        address=address_of(parameters["ip_address"], "malformed-service error", "ip_address"),
        protocol=protocol,
        port=parameters["port"],
        port_max=parameters.get("portmax") or parameters["port"],
        block=parameters.get("block", 0),
        host=host,
    )

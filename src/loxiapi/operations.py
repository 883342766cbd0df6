# SPDX-License-Identifier: Apache-2.0
"""Every operation that is served: method, path, parameters, body and answer.

The router, the OpenAPI document and the tests all read this table, so that none of them can say more or less
than the others.
"""

import re
from dataclasses import dataclass
from enum import Enum

from loxiapi import wire
from loxiapi.refusal import wrong_type
from loxiapi.status import ReconcilerStatus

BASE_PATH = "/netlox/v1"
JSON_TYPE = "application/json"
TEXT_TYPE = "text/plain"
LINES_TYPE = "application/x-ndjson"
"""A value a line; empty lines are a sign of life."""
_NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]{1,3})?")
_TRUE_WORDS = frozenset({"1", "t", "true", "y", "yes", "ok", "on", "enabled", "selected", "checked"})


class Place(Enum):
    """Where a parameter is; the value is its word in OpenAPI and in error texts."""

    PATH = "path"
    QUERY = "query"


class Kind(Enum):
    """Type of a parameter; the value is its word in OpenAPI."""

    TEXT = "string"
    NUMBER = "number"
    BOOLEAN = "boolean"


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """One path or query parameter; those of the query may be left out."""

    name: str
    place: Place
    kind: Kind
    about: str

    def parse(self, text: str) -> str | int | bool:
        """Convert ``text``; raises RefusedError (601) where it is no whole number."""
        if self.kind is Kind.BOOLEAN:
            return text.lower() in _TRUE_WORDS
        if self.kind is Kind.TEXT:
            return text
        if not _NUMBER.fullmatch(text) or not float(text).is_integer():
            raise wrong_type(self.name, self.place.value, "float64", text)
        return int(float(text))


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One method of one path.

    ``body`` is None where a request body is ignored; ``many`` is a list of such bodies where one may be sent instead.
    ``media`` is the answer's type. A ``strict`` one refuses query parameters that it does not have: a filter with a
    typing error would show everything.
    """

    name: str
    method: str
    path: str
    about: str
    parameters: tuple[Parameter, ...] = ()
    body: type[wire.Wire] | None = None
    many: type[wire.Wire] | None = None
    answer: type[wire.Wire] | None = wire.Result
    media: str = JSON_TYPE
    strict: bool = False


_ADDRESS = Parameter(name="ip_address", place=Place.PATH, kind=Kind.TEXT, about="Service address")
_PORT = Parameter(name="port", place=Place.PATH, kind=Kind.NUMBER, about="Service port; the lowest of a range")
_PORT_MAX = Parameter(name="portmax", place=Place.PATH, kind=Kind.NUMBER, about="Highest port of a range, or 0")
_PROTOCOL = Parameter(name="proto", place=Place.PATH, kind=Kind.TEXT, about="tcp, udp, sctp, icmp or none")
_HOST = Parameter(name="hosturl", place=Place.PATH, kind=Kind.TEXT, about='Host of the rule; "any" is no host')
_BGP = Parameter(name="bgp", place=Place.QUERY, kind=Kind.BOOLEAN, about="Accepted and ignored")
_BLOCK = Parameter(name="block", place=Place.QUERY, kind=Kind.NUMBER, about="Mark of the rule")
_NAME = Parameter(name="lb_name", place=Place.PATH, kind=Kind.TEXT, about="Exact name of the rules")

_ENDPOINT_NAME = Parameter(name="name", place=Place.QUERY, kind=Kind.TEXT, about="Name of the endpoint")
_PROBE_TYPE = Parameter(name="probe_type", place=Place.QUERY, kind=Kind.TEXT, about="Without a name: its probe type")
_PROBE_PORT = Parameter(name="probe_port", place=Place.QUERY, kind=Kind.NUMBER, about="Without a name: its probe port")
_ENDPOINT_ADDRESS = Parameter(name="ip_address", place=Place.PATH, kind=Kind.TEXT, about="Address of the endpoint")

_LIMIT = Parameter(name="limit", place=Place.QUERY, kind=Kind.NUMBER, about="How many at most; 100 when not given")

_FLOW_FILTERS = tuple(
    Parameter(name=name, place=Place.QUERY, kind=kind, about=about)
    for name, kind, about in (
        ("service", Kind.TEXT, "Name of their service, or its address, port and protocol: 20.20.20.1:2020/tcp"),
        ("client", Kind.TEXT, "Address of their client, or a network it is in: 10.0.0.0/8"),
        ("endpoint", Kind.TEXT, "Address of their endpoint, also with a port: 31.31.31.1:8080, [2001::1]:8080"),
        ("state", Kind.TEXT, "Their state, a word of conntrackState"),
        ("protocol", Kind.TEXT, "tcp, udp, sctp, icmp, icmp6 or a number"),
        ("limit", Kind.NUMBER, "How many at most; the answer then says where the next ones begin"),
        ("continue", Kind.TEXT, 'What came behind this place, the member "continue" of an answer'),
    )
)
_REASON = Parameter(name="reason", place=Place.QUERY, kind=Kind.TEXT, about="Only those with this reason")

_LB = f"{BASE_PATH}/config/loadbalancer"
_ENDPOINT = f"{BASE_PATH}/config/endpoint"
_BY_HOST = f"{_LB}/hosturl/{{hosturl}}"
_BY_ADDRESS = "/externalipaddress/{ip_address}/port/{port}"
_BY_RANGE = f"{_BY_ADDRESS}/portmax/{{portmax}}"
_BY_PROTOCOL = "/protocol/{proto}"


def _delete_rule(name: str, path: str, *parameters: Parameter) -> Operation:
    return Operation(
        name=name,
        method="DELETE",
        path=path + _BY_PROTOCOL,
        about="Delete one load balancer rule",
        parameters=(*parameters, _PROTOCOL, _BGP, _BLOCK),
    )


def _metrics(name: str, path: str) -> Operation:
    about = "Metrics in the text format of Prometheus; 503 while they are off"
    return Operation(name=name, method="GET", path=path, about=about, answer=None, media=TEXT_TYPE)


def _get(name: str, path: str, about: str, answer: type[wire.Wire] | None) -> Operation:
    return Operation(name=name, method="GET", path=path, about=about, answer=answer)


OPERATIONS: tuple[Operation, ...] = (
    Operation(
        name="write_rule",
        method="POST",
        path=_LB,
        about="Create or replace a load balancer rule, attach or detach endpoints (oper 1, 2); of a list all or none",
        body=wire.LoadBalancerEntry,
        many=wire.LoadBalancerList,
    ),
    _get("list_rules", f"{_LB}/all", "Every load balancer rule", wire.LoadBalancerList),
    Operation(name="delete_all_rules", method="DELETE", path=f"{_LB}/all", about="Delete every load balancer rule"),
    Operation(
        name="delete_named_rules",
        method="DELETE",
        path=f"{_LB}/name/{{lb_name}}",
        about="Delete every load balancer rule with this name",
        parameters=(_NAME,),
    ),
    _delete_rule("delete_rule", _LB + _BY_ADDRESS, _ADDRESS, _PORT),
    _delete_rule("delete_rule_range", _LB + _BY_RANGE, _ADDRESS, _PORT, _PORT_MAX),
    _delete_rule("delete_host_rule", _BY_HOST + _BY_ADDRESS, _HOST, _ADDRESS, _PORT),
    _delete_rule("delete_host_rule_range", _BY_HOST + _BY_RANGE, _HOST, _ADDRESS, _PORT, _PORT_MAX),
    _get("list_endpoints", f"{_ENDPOINT}/all", "Every endpoint and its health", wire.MonitoredEndpointList),
    Operation(
        name="write_endpoint",
        method="POST",
        path=_ENDPOINT,
        about="Check an endpoint, or check it otherwise",
        body=wire.MonitoredEndpoint,
    ),
    Operation(
        name="delete_endpoint",
        method="DELETE",
        path=f"{_ENDPOINT}/epipaddress/{{ip_address}}",
        about="Stop to check an endpoint; without name and probe type the only one of the address",
        parameters=(_ENDPOINT_ADDRESS, _ENDPOINT_NAME, _PROBE_TYPE, _PROBE_PORT),
    ),
    Operation(
        name="set_endpoint_state",
        method="POST",
        path=f"{BASE_PATH}/config/endpointhoststate",
        about="Take endpoints out of service, or leave them to their probes again",
        body=wire.EndpointHostState,
    ),
    Operation(
        name="list_flows",
        method="GET",
        path=f"{BASE_PATH}/config/conntrack/all",
        about="Both directions of every flow, or of those that everything given holds for",
        parameters=_FLOW_FILTERS,
        answer=wire.ConntrackList,
        strict=True,
    ),
    _get("list_ports", f"{BASE_PATH}/config/port/all", "Every network interface", wire.PortList),
    _get("get_params", f"{BASE_PATH}/config/params", "Settings that change at run time", wire.Params),
    Operation(
        name="set_params",
        method="POST",
        path=f"{BASE_PATH}/config/params",
        about="Change settings at run time",
        body=wire.Params,
    ),
    Operation(
        name="list_revisions",
        method="GET",
        path=f"{BASE_PATH}/config/revisions/all",
        about="The newest writes of the configuration, newest first",
        parameters=(_LIMIT,),
        answer=wire.RevisionList,
    ),
    Operation(
        name="roll_back",
        method="POST",
        path=f"{BASE_PATH}/config/rollback",
        about="Make the configuration what it was after a revision, as a new revision",
        body=wire.Rollback,
    ),
    Operation(
        name="trace_packet",
        method="POST",
        path=f"{BASE_PATH}/trace",
        about="What would become of a packet; nothing changes",
        body=wire.TraceRequest,
        answer=wire.TraceAnswer,
    ),
    Operation(
        name="watch_drops",
        method="GET",
        path=f"{BASE_PATH}/watch/drops",
        about="Dropped packets as they come, a line each, until the client goes away",
        parameters=(_REASON,),
        strict=True,
        answer=wire.DroppedPacket,
        media=LINES_TYPE,
    ),
    _metrics("get_metrics", f"{BASE_PATH}/metrics"),
    _metrics("get_metrics_at_root", "/metrics"),
    _get("get_metrics_switch", f"{BASE_PATH}/config/metrics", "Whether there are metrics", wire.MetricsSwitch),
    Operation(name="enable_metrics", method="POST", path=f"{BASE_PATH}/config/metrics", about="Switch metrics on"),
    Operation(name="disable_metrics", method="DELETE", path=f"{BASE_PATH}/config/metrics", about="Switch metrics off"),
    _get(
        "get_reconciler",
        f"{BASE_PATH}/status/reconciler",
        "How the work in the background stands",
        ReconcilerStatus,
    ),
    Operation(
        name="start_audit",
        method="POST",
        path=f"{BASE_PATH}/config/audit",
        about="Compare the contents of the maps with the configuration now, and repair them",
    ),
    _get("get_version", f"{BASE_PATH}/version", "Version of the daemon", wire.Version),
    _get("get_document", "/swagger.json", "This document", None),
    _get("get_document_below_base", f"{BASE_PATH}/swagger.json", "This document", None),
)

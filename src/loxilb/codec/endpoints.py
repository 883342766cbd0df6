# SPDX-License-Identifier: Apache-2.0
"""Endpoints and their health between the wire and the model."""

from collections.abc import Mapping
from typing import Any

from loxiapi import wire
from loxilb.codec.rules import address_of
from loxilb.errors import InvalidRequest
from loxilb.model import IPAddress
from loxilb.model.probe import (
    EndpointKey,
    EndpointStatus,
    HealthCheck,
    HostState,
    MonitoredEndpoint,
    ProbeKind,
    kind_of,
)
from loxilb.ports import EndpointChoice

_STATES = {state.value: state for state in HostState}
_WORDS = {"icmp": "ping"}
_UNITS = ((1_000_000_000, "s"), (1_000_000, "ms"), (1_000, "\N{MICRO SIGN}s"))


def endpoint_of(body: wire.MonitoredEndpoint) -> MonitoredEndpoint:
    """Convert a request; raises InvalidRequest with the code of the contract."""
    return MonitoredEndpoint(
        address=_host_of(body.host_name, "hostName"),
        name=body.name,
        check=HealthCheck(
            kind=kind_of(body.probe_type),
            port=body.probe_port,
            request=body.probe_request,
            response=body.probe_response,
            period=body.probe_duration,
            retries=body.retries,
        ),
    )


def body_of(endpoint: MonitoredEndpoint) -> wire.MonitoredEndpoint:
    """Convert what an operator wants checked back to the request for it."""
    check = endpoint.check
    return wire.MonitoredEndpoint(
        host_name=str(endpoint.address),
        name=endpoint.name,
        retries=check.retries,
        probe_type=check.kind.value,
        probe_request=check.request,
        probe_response=check.response,
        probe_duration=check.period,
        probe_port=check.port,
    )


def choice_of(parameters: Mapping[str, Any]) -> EndpointChoice:
    """Read which endpoint a path and its query name; raises InvalidRequest."""
    kind: str = parameters.get("probe_type", "")
    return EndpointChoice(
        address=_host_of(parameters["ip_address"], "ip_address"),
        name=parameters.get("name", ""),
        kind=kind_of(kind) if kind else None,
        port=parameters.get("probe_port"),
    )


def host_state_of(body: wire.EndpointHostState) -> tuple[IPAddress, HostState, EndpointKey | None]:
    """Convert a request: address, state, and the endpoint where it is about one; raises InvalidRequest."""
    address = _host_of(body.host_name, "hostName")
    if body.state not in _STATES:
        raise InvalidRequest("unknown ep-host-state", field="state", cause=f"{body.state!r} is no state")
    if bool(body.port) != bool(body.protocol) and body.protocol not in ("icmp", "ping"):
        raise InvalidRequest("host-args error", field="epPort", cause="port and protocol belong together")
    word = _WORDS.get(body.protocol, body.protocol)
    return address, _STATES[body.state], EndpointKey(address, word, body.port) if word else None


def status_entry_of(status: EndpointStatus) -> wire.MonitoredEndpointEntry:
    """Convert an endpoint to an answer; what is not probed shows no times."""
    check = status.check
    probed = check.kind is not ProbeKind.NONE
    least, mean, greatest = map(duration_text, status.delays) if status.delays else ("", "", "")
    return wire.MonitoredEndpointEntry(
        host_name=str(status.address),
        name=status.name,
        retries=check.retries if probed else 0,
        probe_type=check.kind.value,
        probe_request=check.request,
        probe_response=check.response,
        probe_duration=check.period if probed else 0,
        probe_port=check.port,
        min_delay=least,
        avg_delay=mean,
        max_delay=greatest,
        configured=status.told,
        state="red" if status.state is HostState.RED else "ok" if status.up else "nok",
    )


def duration_text(seconds: float) -> str:
    """Write a time below a minute as Go does, in the largest unit that leaves a whole part: ``1.2ms``, ``850ns``."""
    total = round(seconds * 1_000_000_000)
    for size, unit in _UNITS:
        if total >= size:
            digits = f"{total % size:0{len(str(size)) - 1}d}".rstrip("0")
            return f"{total // size}.{digits}{unit}" if digits else f"{total // size}{unit}"
    return f"{total}ns" if total else "0s"


def _host_of(text: str, field: str) -> IPAddress:
    """Read an address, also one with the length of a whole address behind it; raises InvalidRequest."""
    plain, _, length = text.partition("/")
    address = address_of(plain, "host-parse error", field)
    if "/" in text and length != str(address.max_prefixlen):
        raise InvalidRequest("host-parse error", field=field, cause=f"{text!r} is more than one host")
    return address

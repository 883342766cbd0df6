# SPDX-License-Identifier: Apache-2.0
"""Load balancer rules between the wire and the model: one function per direction."""

from collections.abc import Mapping, Sequence
from copy import copy
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from math import ceil
from typing import Any

from msgspec import structs

from loxiapi import wire
from loxilb.errors import InvalidRequest, NotBuilt
from loxilb.model import (
    Endpoint,
    IPAddress,
    IPNetwork,
    L4Protocol,
    LossPolicy,
    Mode,
    Probe,
    Selection,
    Service,
    ServiceKey,
)
from loxilb.model.service import NO_PROBE
from loxilb.ports import Edit, EditKind, EndpointView, ServiceStatus

_SEL_N3 = 6
_SEL_N3_KUBERNETES = 7  # kube-loxilb numbers n2det 6 and n3 7
_NO_PROBES = ("", "none")
_MAX_SECONDARY = 3

_EDITS = {kind.value: kind for kind in EditKind}

_MODES = {int(mode): mode for mode in Mode}
_SELECTIONS = {int(selection): selection for selection in Selection}

_PROTOCOLS = {protocol.value: protocol for protocol in L4Protocol}
_RESET = LossPolicy.RESET  # members of an Enum, and their values, are slow to name
_LOSSES = {policy.value: policy for policy in LossPolicy} | {"": _RESET}

# Most services differ in nothing more than key, endpoints and name: all else is converted once for those that have the
# same, and they are made from that.
_PLAIN = Service(
    key=ServiceKey(address=IPv4Address(0), protocol=L4Protocol.TCP, port=0),
    endpoints=(Endpoint(address=IPv4Address(1), port=0),),
)

# Many services have the same endpoints and probes, and a start reads them all: one object of each takes less time, and
# less memory.
CACHED = 1 << 16
"""How many are kept of what many services have."""


@lru_cache(maxsize=CACHED)
def _text_of(version: int, number: int) -> str:
    return str(IPv4Address(number) if version == 4 else IPv6Address(number))


def _text(address: IPAddress) -> str:
    """Return an address as text; looked up by its number, as the hash of an address is slow."""
    return _text_of(address.version, int(address))


def service_of(entry: wire.LoadBalancerEntry) -> Service:
    """Convert a request; raises InvalidRequest with the code of the contract."""
    arguments = entry.service_arguments
    key = _key_of(arguments)
    endpoints = tuple([_endpoint(one.endpoint_ip, one.target_port, one.weight) for one in entry.endpoints])
    # Names are spelt out here, as a mapping of them is slow to pass.
    shared = structs.replace(arguments, external_ip="", port=0, port_max=0, block=0, host="", name="")
    template, name = _template_of(shared), arguments.name
    if entry.secondary_ips or entry.allowed_sources:
        return structs.replace(template, key=key, endpoints=endpoints, name=name, **_lists_of(entry))
    return structs.replace(template, key=key, endpoints=endpoints, name=name)


@lru_cache(maxsize=1 << 10)
def _template_of(arguments: wire.ServiceArguments) -> Service:
    """Convert the arguments that are often the same for very many services to what these are made from.

    It is no service itself, and nothing is checked of it.
    """
    found = {
        "mode": _MODES[arguments.mode],
        "selection": _selection_of(arguments),
        "inactive_timeout": arguments.inactive_timeout or _PROTOCOLS[arguments.protocol].default_timeout,
        "persist_timeout": arguments.persist_timeout,
        "half_open_limit": arguments.half_open_limit,
        "loss": _LOSSES[arguments.on_endpoint_loss],
        "drain_timeout": arguments.drain_timeout,
        "slow_start": arguments.slow_start,
        "private_address": _private_of(arguments),
        "monitor": arguments.monitor or arguments.probe_type not in _NO_PROBES,
        "bgp": arguments.bgp,
        "managed": arguments.managed,
        "security": arguments.security,
        "proxy_protocol_v2": arguments.proxy_protocol_v2,
        "egress": arguments.egress,
        "probe": _probe_of(arguments),
    }
    template = copy(_PLAIN)
    for name, value in found.items():
        structs.force_setattr(template, name, value)
    return template


def _lists_of(entry: wire.LoadBalancerEntry) -> Mapping[str, Any]:
    return {"secondary_addresses": _secondary_of(entry), "allowed_sources": _sources_of(entry)}


def edits_of(body: wire.LoadBalancerList) -> list[Edit]:
    """Convert a request that writes several rules as one; raises InvalidRequest, which says where it is.

    Empties it: there may be very many, and the memory of each goes to those made of the next ones.
    """
    edits: list[Edit] = []
    entries = body.entries
    entries.reverse()
    try:
        while entries:
            entry = entries.pop()
            edits.append(Edit(_EDITS[entry.service_arguments.oper], service_of(entry)))
    except InvalidRequest as error:
        error.index = len(edits)
        raise
    return edits


def entry_of(status: ServiceStatus) -> wire.LoadBalancerEntry:
    """Convert a service and the state of its endpoints to an answer."""
    return structs.replace(
        body_of(status.service),
        endpoints=list(map(_endpoint_entry_of, status.endpoints)),
        removed_endpoints=list(map(_endpoint_entry_of, status.removed)),
    )


def body_of(service: Service) -> wire.LoadBalancerEntry:
    """Convert a service to the request that creates it."""
    secondary, sources = lists_of(service.secondary_addresses, service.allowed_sources)
    return wire.LoadBalancerEntry(
        service_arguments=_arguments_of(service),
        secondary_ips=secondary,
        allowed_sources=sources,
        endpoints=list(map(endpoint_body, service.endpoints)),
    )


def lists_of(
    secondary: Sequence[IPAddress], sources: Sequence[IPNetwork]
) -> tuple[list[wire.SecondaryAddress] | None, list[wire.AllowedSource] | None]:
    """Convert the further addresses and the allowed sources of a service."""
    return (
        [wire.SecondaryAddress(secondary_ip=str(one)) for one in secondary] or None,
        [wire.AllowedSource(prefix=str(one)) for one in sources] or None,
    )


@lru_cache(maxsize=CACHED)
def endpoint_body(one: Endpoint) -> wire.EndpointEntry:
    """Convert an endpoint as configured."""
    return wire.EndpointEntry(endpoint_ip=str(one.address), target_port=one.port, weight=one.weight)


def _endpoint_entry_of(view: EndpointView) -> wire.EndpointEntry:
    """Convert an endpoint and its state; a share is shown while it is not full."""
    return wire.EndpointEntry(
        endpoint_ip=_text(view.endpoint.address),
        target_port=view.endpoint.port,
        weight=view.endpoint.weight,
        state=view.state.value,
        counter=f"{view.counter.packets}:{view.counter.bytes}",
        share=round(view.share * 100) if view.share < 1 else 0,
        flows=view.flows,
        seconds_left=ceil(view.left or 0),
    )


def address_of(text: str, code: str, field: str) -> IPAddress:
    """Read an address; an IPv4-mapped IPv6 address is the IPv4 one. Raises InvalidRequest."""
    try:
        return _address(text)
    except ValueError as error:
        raise InvalidRequest(code, field=field, cause=str(error)) from None


@lru_cache(maxsize=CACHED)
def _address(text: str) -> IPAddress:
    try:
        address = ip_address(text)
    except ValueError:
        raise ValueError(f"{text!r} is not an IP address") from None
    if isinstance(address, IPv6Address):
        if address.scope_id is not None:
            raise ValueError(f"{text!r} has a zone")
        return address.ipv4_mapped or address
    return address


def protocol_of(text: str, field: str) -> L4Protocol:
    """Read the word for a transport; raises InvalidRequest."""
    found = _PROTOCOLS.get(text)
    if found is None:
        raise InvalidRequest("malformed-proto error", field=field, cause=f"{text!r} is no protocol")
    return found


def _key_of(arguments: wire.ServiceArguments) -> ServiceKey:
    return ServiceKey(
        address=address_of(arguments.external_ip, "malformed-service error", "externalIP"),
        protocol=protocol_of(arguments.protocol, "protocol"),
        port=arguments.port,
        port_max=arguments.port_max or arguments.port,
        block=arguments.block,
        host=arguments.host,
    )


@lru_cache(maxsize=CACHED)
def _endpoint(text: str, port: int, weight: int) -> Endpoint:
    return Endpoint(address=address_of(text, "malformed-lbep error", "endpointIP"), port=port, weight=weight)


def _selection_of(arguments: wire.ServiceArguments) -> Selection:
    if arguments.sel == _SEL_N3_KUBERNETES:
        return Selection.N3
    if arguments.sel == _SEL_N3 and arguments.protocol == L4Protocol.SCTP.value:
        raise NotBuilt("not-built error", field="sel", cause="6 for sctp means n2det")
    return _SELECTIONS[arguments.sel]


def _private_of(arguments: wire.ServiceArguments) -> IPAddress | None:
    if not arguments.private_ip:
        return None
    return address_of(arguments.private_ip, "malformed-service privateIP error", "privateIP")


def _probe_of(arguments: wire.ServiceArguments) -> Probe:
    plain = not (arguments.probe_type or arguments.probe_request or arguments.probe_response)
    if plain and not (arguments.probe_port or arguments.probe_timeout or arguments.probe_retries):
        return NO_PROBE
    return Probe(
        kind=arguments.probe_type,
        port=arguments.probe_port,
        request=arguments.probe_request,
        response=arguments.probe_response,
        period=arguments.probe_timeout,
        retries=arguments.probe_retries,
    )


def _secondary_of(entry: wire.LoadBalancerEntry) -> tuple[IPAddress, ...]:
    """Read the further addresses; where the original drops them silently, for all but SCTP, they are served here."""
    items, arguments = entry.secondary_ips or (), entry.service_arguments
    addresses = tuple(address_of(item.secondary_ip, "malformed-secIP error", "secondaryIP") for item in items)
    if len(addresses) > _MAX_SECONDARY:
        cause = f"{len(addresses)} are more than {_MAX_SECONDARY}"
        raise InvalidRequest("secondaryIP-args len error", field="secondaryIPs", cause=cause)
    if ":" not in arguments.external_ip and any(address.version == 6 for address in addresses):
        raise InvalidRequest("malformed-secIP nat46 error", field="secondaryIP", cause="IPv6 beside an IPv4 service")
    return addresses


def _sources_of(entry: wire.LoadBalancerEntry) -> tuple[IPNetwork, ...]:
    return tuple([_network_of(item.prefix) for item in entry.allowed_sources or ()])


def _network_of(text: str) -> IPNetwork:
    try:
        return ip_network(text, strict=False)
    except ValueError:
        raise InvalidRequest("rule-allowed-src error", field="prefix", cause=f"{text!r} is no prefix") from None


def _arguments_of(service: Service) -> wire.ServiceArguments:
    key, _, name, *shared, _, _ = structs.astuple(service)
    return structs.replace(
        shared_arguments(key.protocol, *shared),
        external_ip=_text(key.address),
        port=key.port,
        port_max=key.port_max if key.port_max != key.port else 0,
        block=key.block,
        name=name,
        host=key.host,
    )


@lru_cache(maxsize=1 << 10)
def shared_arguments(protocol: L4Protocol, *shared: Any) -> wire.ServiceArguments:
    """Convert what is often the same for very many services, without address and ports.

    ``shared`` are the members of a service that are declared between its name and its further addresses, in this order.
    """
    mode, selection, timeout, persist_timeout, half_open_limit, loss, drain_timeout, slow_start, *others = shared
    private_address, monitor, bgp, managed, security, proxy_protocol_v2, egress, probe = others
    return wire.ServiceArguments(
        external_ip="",
        private_ip=str(private_address or ""),
        port=0,
        protocol=protocol.value,
        inactive_timeout=timeout or protocol.default_timeout,
        sel=int(selection),
        mode=int(mode),
        bgp=bgp,
        monitor=monitor,
        persist_timeout=persist_timeout,
        half_open_limit=half_open_limit,
        on_endpoint_loss=loss.value if loss is not _RESET else "",
        drain_timeout=drain_timeout,
        slow_start=slow_start,
        managed=managed,
        security=security,
        probe_type=probe.kind,
        probe_port=probe.port,
        probe_request=probe.request,
        probe_response=probe.response,
        probe_timeout=probe.period,
        probe_retries=probe.retries,
        proxy_protocol_v2=proxy_protocol_v2,
        egress=egress,
    )

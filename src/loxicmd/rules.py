# SPDX-License-Identifier: Apache-2.0
"""Load balancer rules on the command line: words, cells, and the original's form of JSON."""

from typing import Any

from loxiapi.wire import EndpointEntry, LoadBalancerEntry, ServiceArguments
from loxicmd.output import plain

SELECTIONS = ("rr", "hash", "priority", "persist", "lc", "n2", "n3")
MODES = ("default", "onearm", "fullnat", "dsr", "fullproxy", "hostonearm")
SECURITY = {"https": 1, "tls": 1, "e2ehttps": 2, "e2etls": 2}
_SECURITY_WORDS = {1: ":https", 2: ":e2ehttps"}

HEADER = (
    *("Ext IP", "Port", "Proto", "Name", "Mark", "Sel", "Mode"),
    *("# of Endpoints", "Timeout", "Monitor"),
)
WIDE_HEADER = (
    *("Ext IP", "Sec IPs", "Sources", "Host", "Port", "Proto", "Name", "Mark", "Sel", "Mode"),
    *("Endpoint", "EPort", "Weight", "State", "Counters"),
)
_ENDPOINT_EXTRAS = ("share", "flows", "secondsLeft")
_RULE_CELLS = 10
_DRAINING = "draining"
_RENAMED = {"bgp": "BGP", "monitor": "Monitor"}
_ALWAYS = frozenset(
    {
        *("externalIP", "port", "protocol", "sel", "mode", "BGP", "Monitor", "inactiveTimeOut", "block"),
        *("proxyprotocolv2", "egress"),
    }
)


def original_form(entry: LoadBalancerEntry) -> dict[str, Any]:
    """Return the entry as the original's command line writes it: its spelling, its order, its zero values."""
    arguments = {_RENAMED.get(name, name): value for name, value in plain(entry.service_arguments).items()}
    gone = list(map(_endpoint_form, entry.removed_endpoints))
    removed = {"removedEndpoints": gone} if gone else {}
    return {
        "serviceArguments": {name: value for name, value in arguments.items() if value or name in _ALWAYS},
        "secondaryIPs": plain(entry.secondary_ips) or None,
        "allowedSources": plain(entry.allowed_sources) or None,
        "endpoints": list(map(_endpoint_form, entry.endpoints)),
        **removed,
    }


def _endpoint_form(endpoint: EndpointEntry) -> dict[str, Any]:
    """Return an endpoint with the members that the original has, and of the others those that say something."""
    return {name: value for name, value in plain(endpoint).items() if value or name not in _ENDPOINT_EXTRAS}


def order(entry: LoadBalancerEntry) -> str:
    """Return the text that rules are sorted by."""
    arguments = entry.service_arguments
    return f"{arguments.external_ip}|{arguments.port}|{arguments.protocol}"


def cells(entry: LoadBalancerEntry) -> list[str]:
    """Return the row of a rule."""
    arguments = entry.service_arguments
    return [
        arguments.external_ip,
        *_middle(arguments),
        str(len(entry.endpoints)),
        str(arguments.inactive_timeout),
        "On" if arguments.monitor else "Off",
    ]


def wide_rows(entry: LoadBalancerEntry) -> list[list[str]]:
    """Return one row per endpoint, removed ones with flows last; the rule's cells are blank from the second on."""
    arguments = entry.service_arguments
    rule = [
        arguments.external_ip,
        ", ".join(item.secondary_ip for item in entry.secondary_ips or ()),
        ", ".join(item.prefix for item in entry.allowed_sources or ()),
        arguments.host,
        *_middle(arguments),
    ]
    blank = [""] * _RULE_CELLS
    return [
        (blank if number else rule) + _endpoint_cells(endpoint, monitored=arguments.monitor)
        for number, endpoint in enumerate((*entry.endpoints, *entry.removed_endpoints))
    ]


def _middle(arguments: ServiceArguments) -> list[str]:
    last = f"-{arguments.port_max}" if arguments.port_max else ""
    suffix = (":ppv2" if arguments.proxy_protocol_v2 else "") + (":egress" if arguments.egress else "")
    return [
        f"{arguments.port}{last}",
        arguments.protocol + _SECURITY_WORDS.get(arguments.security, ""),
        arguments.name,
        str(arguments.block),
        _word(SELECTIONS, arguments.sel),
        _word(MODES, arguments.mode) + suffix,
    ]


def _word(words: tuple[str, ...], number: int) -> str:
    return words[number] if 0 <= number < len(words) else words[0]


def _endpoint_cells(endpoint: EndpointEntry, *, monitored: bool) -> list[str]:
    state = _state_of(endpoint) if monitored or endpoint.state == _DRAINING or endpoint.share else "-"
    return [endpoint.endpoint_ip, str(endpoint.target_port), str(endpoint.weight), state, endpoint.counter]


def _state_of(endpoint: EndpointEntry) -> str:
    """Return the state, and what a draining endpoint has left or one that starts slowly has reached."""
    parts = [endpoint.state]
    if endpoint.state == _DRAINING:
        parts.append("1 flow" if endpoint.flows == 1 else f"{endpoint.flows} flows")
    if endpoint.seconds_left:
        parts.append(f"{endpoint.seconds_left} s left")
    if endpoint.share:
        parts.append(f"{endpoint.share}%")
    return ", ".join(parts)

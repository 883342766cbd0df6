# SPDX-License-Identifier: Apache-2.0
"""What the shell offers on TAB: names and addresses that the server has. Without a server it offers nothing."""

from collections.abc import Callable, Iterable
from dataclasses import replace

import click
from click.shell_completion import CompletionItem
from msgspec import DecodeError
from msgspec.json import decode

from loxiapi.client import UnreachableError, send
from loxiapi.wire import (
    LoadBalancerEntry,
    LoadBalancerList,
    MonitoredEndpointEntry,
    MonitoredEndpointList,
    PortList,
    RevisionEntry,
    RevisionList,
)
from loxicmd.grammar import server_of

_PATIENCE_S = 1
Suggest = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]


def _rules(ctx: click.Context) -> list[LoadBalancerEntry]:
    return decode(_asked(ctx, "/config/loadbalancer/all"), type=LoadBalancerList).entries


def _asked(ctx: click.Context, path: str) -> bytes:
    return send(replace(server_of(ctx), timeout=_PATIENCE_S), "GET", path).body


def _offering(values: Callable[[click.Context], Iterable[str]]) -> Suggest:
    """Return what click calls: those of ``values`` that begin with what is there already, each once."""

    def suggest(ctx: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
        try:
            found = dict.fromkeys(values(ctx))
        except (UnreachableError, DecodeError):
            return []
        return [CompletionItem(value) for value in found if value and value.startswith(incomplete)]

    return suggest


def _endpoints(ctx: click.Context) -> list[MonitoredEndpointEntry]:
    return decode(_asked(ctx, "/config/endpoint/all"), type=MonitoredEndpointList).entries


def _revisions(ctx: click.Context) -> list[RevisionEntry]:
    return decode(_asked(ctx, "/config/revisions/all"), type=RevisionList).entries


def _ports(ctx: click.Context) -> list[str]:
    return [one.name for one in decode(_asked(ctx, "/config/port/all"), type=PortList).entries]


interfaces = _offering(_ports)
service_addresses = _offering(lambda ctx: [one.service_arguments.external_ip for one in _rules(ctx)])
service_names = _offering(lambda ctx: [one.service_arguments.name for one in _rules(ctx)])
revisions = _offering(lambda ctx: [str(one.number) for one in _revisions(ctx)])
endpoint_addresses = _offering(lambda ctx: [one.host_name for one in _endpoints(ctx)])

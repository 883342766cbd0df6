# SPDX-License-Identifier: Apache-2.0
"""``loxicmd get``."""

import sys
from collections.abc import Callable
from typing import Any, TypeVar

import click

from loxiapi.wire import (
    CONNTRACK_STATES,
    ConntrackEntry,
    ConntrackList,
    LoadBalancerList,
    Params,
    PortEntry,
    PortList,
    Version,
)
from loxicmd import rules as rule_form
from loxicmd.grammar import command, reject_surplus, suggesting
from loxicmd.output import fetch, plain, show_structure, show_table, structured, wide
from loxicmd.watching import Watchable

_FLOW_HEADER = (
    *("Service Name", "destIP", "srcIP", "dport", "sport", "proto", "ident"),
    *("state", "act", "packets", "bytes"),
)
_PORT_HEADER = ("index", "portname", "MAC", "link/state", "L3Info", "L2Info")
_PORT_WIDE_HEADER = (
    *("index", "portname", "MAC", "link/state", "mtu", "isActive/bpf\nPort type"),
    *("Statistics", "L3Info", "L2Info", "Sync"),
)
_PORT_TYPES = (
    *((1, "phy"), (2, "bond-sif"), (4, "bond"), (8, "vlan-sif"), (16, "vlan")),
    *((32, "vxlan-sif"), (64, "vxlan"), (256, "vti")),
)

_Function = TypeVar("_Function", bound=Callable[..., Any])
_PARAMETERS = {"proto": "protocol"}
"""Parameters of the request that are not named like their flags: --protocol is how to reach the server."""
_ENDPOINTS = suggesting("endpoint_addresses")

_words = click.argument("words", nargs=-1, metavar="")
_service_name = click.option(
    "--servName", "service_name", default="", help="Only this service", shell_complete=suggesting("service_names")
)


@command("loadbalancer", "Show load balancer rules.", Watchable)
@_words
@_service_name
@click.pass_context
def rules(ctx: click.Context, words: tuple[str, ...], service_name: str) -> None:
    """Show rules, sorted by address, port and protocol."""
    reject_surplus(words, 0)
    found = [
        entry
        for entry in fetch(ctx, "/config/loadbalancer/all", LoadBalancerList).entries
        if service_name in ("", entry.service_arguments.name)
    ]
    if structured(ctx):
        show_structure(ctx, {"lbAttr": [rule_form.original_form(entry) for entry in found]})
        return
    shown = sorted((entry for entry in found if not entry.service_arguments.snat), key=rule_form.order)
    if wide(ctx):
        show_table(rule_form.WIDE_HEADER, [row for entry in shown for row in rule_form.wide_rows(entry)])
    else:
        show_table(rule_form.HEADER, [rule_form.cells(entry) for entry in shown])


def _filter(name: str, about: str, **more: Any) -> Callable[[_Function], _Function]:
    """Declare a flag that becomes a parameter of the request."""
    return click.option(f"--{name}", default=None, help=about, **more)


@command("conntrack", "Show connections.", Watchable)
@_words
@click.option(
    "--service",
    "--servName",
    default=None,
    help="Only those of this service: name, or address:port/protocol",
    shell_complete=suggesting("service_names"),
)
@_filter("client", "Only those of this client, or of clients in this network")
@_filter("endpoint", "Only those of this endpoint: address or address:port", shell_complete=_ENDPOINTS)
@_filter("state", "Only those in this state", type=click.Choice(CONNTRACK_STATES), metavar="STATE")
@_filter("proto", "Only those of tcp, udp, sctp, icmp, icmp6 or a number")
@_filter("limit", "Show so many at most", type=click.IntRange(min=1))
@_filter("continue", "Show what comes behind the page that named this place", metavar="PLACE")
@click.pass_context
def flows(ctx: click.Context, /, words: tuple[str, ...], **asked: Any) -> None:
    """Show both directions of every flow, or of those asked for; the server looks for them."""
    reject_surplus(words, 0)
    query = {_PARAMETERS.get(name, name): str(value) for name, value in asked.items() if value is not None}
    found = fetch(ctx, "/config/conntrack/all", ConntrackList, query)
    if structured(ctx):
        more = {"continue": found.following} if found.following else {}
        show_structure(ctx, {"ctAttr": plain(found.entries), **more})
        return
    rows = [_flow_cells(entry) for entry in sorted(found.entries, key=_flow_order)]
    show_table(_FLOW_HEADER, rows, even_empty=True)
    if found.following:
        print(f"there are more: --continue={found.following}", file=sys.stderr)


def _flow_order(entry: ConntrackEntry) -> tuple[str, str, int, int, str]:
    return (entry.destination_ip, entry.source_ip, entry.destination_port, entry.source_port, entry.protocol)


def _flow_cells(entry: ConntrackEntry) -> list[str]:
    return [
        entry.service_name,
        entry.destination_ip,
        entry.source_ip,
        str(entry.destination_port),
        str(entry.source_port),
        entry.protocol,
        entry.ident,
        entry.state,
        entry.act,
        str(entry.packets),
        str(entry.bytes),
    ]


@command("port", "Show network interfaces.", Watchable)
@_words
@click.pass_context
def ports(ctx: click.Context, words: tuple[str, ...]) -> None:
    """Show interfaces, sorted by index."""
    reject_surplus(words, 0)
    found = fetch(ctx, "/config/port/all", PortList)
    if structured(ctx):
        show_structure(ctx, plain(found))
        return
    shown = sorted(found.entries, key=lambda entry: entry.number)
    if wide(ctx):
        show_table(_PORT_WIDE_HEADER, [_wide_port_cells(entry) for entry in shown])
    else:
        show_table(_PORT_HEADER, [[*_port_cells(entry), *_layer_cells(entry)] for entry in shown])


def _port_cells(entry: PortEntry) -> list[str]:
    state = f"{_boolean(entry.hardware.link)}/{_boolean(entry.hardware.state)}"
    return [str(entry.number), entry.name, entry.hardware.mac, state]


def _layer_cells(entry: PortEntry) -> list[str]:
    layer3, layer2 = entry.layer3, entry.layer2
    return [
        f"Routed: {_boolean(layer3.routed)}\nIPv4 : {_array(layer3.ipv4)} \nIPv6 : {_array(layer3.ipv6)}",
        f"IsPVID: {_boolean(layer2.is_pvid)}\nVID : {layer2.vid}",
    ]


def _wide_port_cells(entry: PortEntry) -> list[str]:
    software, seen = entry.software, entry.statistics
    types = ",".join(word for bit, word in _PORT_TYPES if software.port_type & bit)
    return [
        *_port_cells(entry),
        str(entry.hardware.mtu),
        f"{_boolean(software.active)}/{_boolean(software.bpf_loaded)}\n{types}",
        f"rx/tx byte : {seen.received_bytes}/{seen.sent_bytes} \n"
        f"rx/tx packets : {seen.received_packets}/{seen.sent_packets} \n"
        f"rx/tx error : {seen.receive_errors}/{seen.send_errors} ",
        *_layer_cells(entry),
        str(entry.sync),
    ]


def _boolean(value: Any) -> str:
    return "true" if value else "false"


def _array(texts: list[str]) -> str:
    return f"[{' '.join(texts)}]"


@command("lbversion", "Show the version of the load balancer.", Watchable)
@_words
@click.pass_context
def server_version(ctx: click.Context, words: tuple[str, ...]) -> None:
    """Show the daemon's version."""
    reject_surplus(words, 0)
    found = fetch(ctx, "/version", Version)
    if structured(ctx):
        show_structure(ctx, plain(found))
        return
    show_table(("LoxiLB Version", "LoxiLB Build Info"), [[found.version, found.build_info]])


@command("log-level", "Show the log level of the load balancer.", Watchable)
@_words
@click.pass_context
def log_level(ctx: click.Context, words: tuple[str, ...]) -> None:
    """Show the daemon's log level."""
    reject_surplus(words, 0)
    found = fetch(ctx, "/config/params", Params)
    if structured(ctx):
        show_structure(ctx, plain(found))
        return
    show_table(("Param Name", "Value"), [["Log level", found.log_level]])

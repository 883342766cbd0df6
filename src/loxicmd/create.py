# SPDX-License-Identifier: Apache-2.0
"""``loxicmd create``."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_address

import click
from msgspec.json import encode

from loxiapi.wire import (
    LOSS_POLICIES,
    OPER_ATTACH,
    OPER_DETACH,
    OPER_REPLACE,
    AllowedSource,
    EndpointEntry,
    LoadBalancerEntry,
    SecondaryAddress,
    ServiceArguments,
)
from loxicmd.grammar import CommandError, command, list_option, offering, reject_surplus, server_of
from loxicmd.output import call, show_result, structured
from loxicmd.rules import MODES, SECURITY, SELECTIONS, original_form

_ICMP_PAIR = "0:0"
_MODE_DSR = MODES.index("dsr")
_UINT32 = click.IntRange(0, 2**32 - 1)
_INT32 = click.IntRange(0, 2**31 - 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class PortPair:
    """Ports of one rule: the service's (``last`` is 0 for a single one) and those of each endpoint."""

    first: int
    last: int
    targets: range


@dataclass(frozen=True, slots=True, kw_only=True)
class _Options:
    """The flags of ``create lb``, named as they are spelled."""

    tcp: list[str]
    udp: list[str]
    sctp: list[str]
    icmp: bool
    endpoints: list[str]
    select: str
    mode: str
    bgp: bool
    monitor: bool
    secips: list[str]
    sources: list[str]
    inatimeout: int
    halfopen: int
    onendpointloss: str
    draintimeout: int
    slowstart: int
    mark: int
    name: str
    host: str
    security: str
    attachep: bool
    detachep: bool
    ppv2en: bool
    egress: bool

    @property
    def pairs(self) -> dict[str, list[str]]:
        """Port pairs by protocol, in the order in which rules are made."""
        given = {
            "tcp": self.tcp,
            "udp": self.udp,
            "sctp": self.sctp,
            "icmp": [_ICMP_PAIR] if self.icmp else [],
        }
        return {protocol: pairs for protocol, pairs in given.items() if pairs}


@command("lb", "Create a load balancer rule for IP.")
@click.argument("words", nargs=-1, metavar="IP")
@list_option("--tcp", "<port>[-<max>]:<target>[-<targetEnd>],...")
@list_option("--udp", "<port>[-<max>]:<target>[-<targetEnd>],...")
@list_option("--sctp", "<port>[-<max>]:<target>[-<targetEnd>],...")
@click.option("--icmp", is_flag=True, help="Balance ICMP echo")
@list_option("--endpoints", "<ip>:<weight>,...")
@click.option("--select", default="rr", help="|".join(SELECTIONS), shell_complete=offering(SELECTIONS))
@click.option("--mode", default="", help="|".join(MODES[1:]), shell_complete=offering(MODES[1:]))
@click.option("--bgp", is_flag=True, help="Announce the address over BGP")
@click.option("--monitor", is_flag=True, help="Probe the endpoints")
@list_option("--secips", "Secondary addresses, three at most")
@list_option("--sources", "Prefixes that may use the service")
@click.option("--inatimeout", type=_UINT32, default=0, help="Seconds after which an idle flow ends")
@click.option("--halfopen", type=_UINT32, default=0, help="Half-open flows at a time; 0 is any number")
@click.option(
    "--onEndpointLoss",
    "onendpointloss",
    type=click.Choice(("", *LOSS_POLICIES)),
    default="",
    metavar="|".join(LOSS_POLICIES),
    help="What becomes of the flows of an endpoint that is removed or fails",
)
@click.option("--drainTimeout", "draintimeout", type=_INT32, default=0, help="Seconds that drain leaves to flows")
@click.option(
    "--slowStart", "slowstart", type=_INT32, default=0, help="Seconds in which a new endpoint gets its full share"
)
@click.option("--mark", type=_UINT32, default=0, help="Mark that separates otherwise equal services")
@click.option("--name", default="", help="Name of the rule")
@click.option("--host", default="", help="Host that the rule serves")
@click.option("--security", default="", help="|".join(SECURITY))
@click.option("--attachEP", "attachep", is_flag=True, help="Add the endpoints to the rule")
@click.option("--detachEP", "detachep", is_flag=True, help="Take the endpoints from the rule")
@click.option("--ppv2en", is_flag=True, help="Send the PROXY protocol v2 header to endpoints")
@click.option("--egress", is_flag=True, help="Egress rule")
@click.pass_context
def create_rule(ctx: click.Context, /, words: tuple[str, ...], **flags: object) -> None:
    """Create one rule per protocol and port pair, in the order tcp, udp, sctp, icmp."""
    address = _address_of(words)
    options = _Options(**flags)  # type: ignore[arg-type]  # click converted each flag to its field's type
    if not structured(ctx):
        print(f"ProtoPortpair: {go_map(options.pairs)}")
        sys.stdout.flush()
    if not options.pairs:
        raise CommandError("create lb needs one or more of --tcp, --udp, --sctp, --icmp")
    for entry in entries_of(address, options):
        answer = call(server_of(ctx), "POST", "/config/loadbalancer", body=encode(original_form(entry)))
        show_result(ctx, answer)


def _address_of(words: Sequence[str]) -> str:
    reject_surplus(words, 1)
    if not words:
        raise click.UsageError("create lb need EXTERNAL-IP args")
    try:
        ip_address(words[0])
    except ValueError:
        raise CommandError(f"Externel IP '{words[0]}' is invalid format") from None
    return words[0]


def entries_of(address: str, options: _Options) -> list[LoadBalancerEntry]:
    """Return the rules to create, all checked before the first is sent; raises CommandError."""
    weights = [weight_of(text) for text in options.endpoints]
    return [
        _entry_of(address, protocol, ports_of(pair), weights, options)
        for protocol, pairs in options.pairs.items()
        for pair in pairs
    ]


def _entry_of(
    address: str, protocol: str, ports: PortPair, weights: Sequence[tuple[str, int]], options: _Options
) -> LoadBalancerEntry:
    mode = _number_of(MODES, options.mode, "mode") if options.mode else 0
    if mode == _MODE_DSR and any(target != ports.first for target in ports.targets):
        raise CommandError(f"dsr keeps the port: use {ports.first}:{ports.first}")
    return LoadBalancerEntry(
        service_arguments=ServiceArguments(
            external_ip=address,
            port=ports.first,
            port_max=ports.last,
            protocol=protocol,
            sel=_number_of(SELECTIONS, options.select, "select"),
            mode=mode,
            bgp=options.bgp,
            monitor=options.monitor,
            inactive_timeout=options.inatimeout,
            half_open_limit=options.halfopen,
            on_endpoint_loss=options.onendpointloss,
            drain_timeout=options.draintimeout,
            slow_start=options.slowstart,
            block=options.mark,
            name=options.name,
            oper=_oper_of(options),
            security=_security_of(options.security),
            host=options.host,
            proxy_protocol_v2=options.ppv2en,
            egress=options.egress,
        ),
        secondary_ips=[SecondaryAddress(secondary_ip=text) for text in options.secips],
        allowed_sources=[AllowedSource(prefix=text) for text in options.sources],
        endpoints=[
            EndpointEntry(endpoint_ip=endpoint, target_port=target, weight=weight)
            for endpoint, weight in weights
            for target in ports.targets
        ],
    )


def _oper_of(options: _Options) -> int:
    if options.attachep:
        return OPER_ATTACH
    return OPER_DETACH if options.detachep else OPER_REPLACE


def _security_of(word: str) -> int:
    if word and word not in SECURITY:
        print(f"Warning: unknown word '{word}' for --security, using none", file=sys.stderr)
    return SECURITY.get(word, 0)


def _number_of(words: Sequence[str], word: str, flag: str) -> int:
    """Return the number of ``word``; an unknown one is the first, as in the original, but with a warning."""
    if word in words:
        return words.index(word)
    print(f"Warning: unknown word '{word}' for --{flag}, using {words[0]}", file=sys.stderr)
    return 0


def weight_of(text: str) -> tuple[str, int]:
    """Split ``<ip>:<weight>`` at the last colon; raises CommandError."""
    address, colon, weight = text.rpartition(":")
    if not colon:
        raise CommandError(f"endpoint '{text}' is invalid format")
    if not weight.isdecimal():
        raise CommandError(f"endpoint's weight '{weight}' is invalid format")
    return address, int(weight)


def ports_of(text: str) -> PortPair:
    """Read ``<port>[-<max>]:<target>[-<targetEnd>]``; raises CommandError."""
    service, colon, target = text.partition(":")
    if not colon:
        raise CommandError(f"port pair '{text}' is invalid format")
    first, last = _span_of(service, "port")
    lowest, highest = _span_of(target, "targetPort")
    if highest and highest < lowest:
        raise CommandError(f"targetPort '{target}' is invalid format")
    return PortPair(first=first, last=last, targets=range(lowest, max(lowest, highest) + 1))


def _span_of(text: str, name: str) -> tuple[int, int]:
    first, dash, last = text.partition("-")
    for part in (first, last) if dash else (first,):
        if not part.isdecimal():
            raise CommandError(f"{name} '{part}' is not integer")
        if int(part) > 0xFFFF:
            raise CommandError(f"{name} '{part}' is not within 0 to 65535")
    return int(first), int(last) if dash else 0


def go_map(lists: dict[str, list[str]]) -> str:
    """Print lists by name as the original does: ``map[tcp:[80:32015] udp:[53:53]]``, sorted."""
    return "map[" + " ".join(f"{name}:[{' '.join(items)}]" for name, items in sorted(lists.items())) + "]"

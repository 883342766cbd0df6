# SPDX-License-Identifier: Apache-2.0
"""``loxicmd delete``."""

import sys
from collections.abc import Sequence

import click

from loxiapi.client import segments
from loxicmd.create import go_map
from loxicmd.grammar import CommandError, command, reject_surplus, server_of, suggesting
from loxicmd.output import call, show_result, structured

_PATH = "/config/loadbalancer"
_ANY_HOST = "any"
_ICMP_PORT = "0"


@command("lb", "Delete the load balancer rules of IP, or those with a name.")
@click.argument("words", nargs=-1, metavar="[IP]", shell_complete=suggesting("service_addresses"))
@click.option("--tcp", default="", help="<port>[-<max>]")
@click.option("--udp", default="", help="<port>[-<max>]")
@click.option("--sctp", default="", help="<port>[-<max>]")
@click.option("--icmp", is_flag=True, help="The rule for ICMP echo")
@click.option("--bgp", is_flag=True, help="The rule is announced over BGP")
@click.option("--mark", type=click.IntRange(0, 2**32 - 1), default=0, help="Mark of the rule")
@click.option("--name", default="", help="Name of the rules", shell_complete=suggesting("service_names"))
@click.option("--host", default="", help="Host of the rule")
@click.pass_context
def delete_rule(ctx: click.Context, /, words: tuple[str, ...], **flags: object) -> None:
    """Delete by name, or one rule per protocol in the order tcp, udp, sctp, icmp."""
    reject_surplus(words, 1)
    if flags["name"]:
        show_result(ctx, call(server_of(ctx), "DELETE", _PATH + segments("name", str(flags["name"]))))
        return
    if not words:
        raise click.UsageError("not valid EXTERNAL-IP")
    ports = {protocol: str(flags[protocol]) for protocol in ("tcp", "udp", "sctp") if flags[protocol]}
    if flags["icmp"]:
        ports["icmp"] = _ICMP_PORT
    _say(ctx, f"PortNumberList: {go_map({name: text.split('-') for name, text in ports.items()})}")
    if not ports:
        raise CommandError("delete lb needs one or more of --tcp, --udp, --sctp, --icmp, --name")
    query = {"bgp": "true" if flags["bgp"] else "false", "block": str(flags["mark"])}
    for protocol, text in ports.items():
        parts = _parts(str(flags["host"]) or _ANY_HOST, words[0], protocol, text)
        _say(ctx, f"subResources: [{' '.join(parts)}]")
        show_result(ctx, call(server_of(ctx), "DELETE", _PATH + segments(*parts), query=query))


def _parts(host: str, address: str, protocol: str, ports: str) -> Sequence[str]:
    """Return the path segments that name one rule; ``portmax`` 0 is a single port."""
    first, _, last = ports.partition("-")
    for text in (first, last or "0"):
        if not text.isdecimal():
            raise CommandError(f"port '{text}' is not integer")
    return (
        *("hosturl", host, "externalipaddress", address),
        *("port", first, "portmax", last or "0", "protocol", protocol),
    )


def _say(ctx: click.Context, line: str) -> None:
    if not structured(ctx):
        print(line)
        sys.stdout.flush()

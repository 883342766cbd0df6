# SPDX-License-Identifier: Apache-2.0
"""``loxicmd trace``: what would become of a packet."""

import re

import click
from msgspec import json as wire_json

from loxiapi.wire import NextHop, PacketHeaders, TraceAnswer, TraceFlow, TraceRequest, encode
from loxicmd.grammar import CommandError, command, offering, server_of, suggesting
from loxicmd.output import call, plain, reason_of, show_structure, structured

_PROTOCOLS = ("tcp", "udp", "icmp")
_OK = 200
_HIGHEST_PORT = 65_535
# [IPv6]:port, [IPv6], IPv6, IPv4:port, IPv4.
_END = re.compile(
    r"\[(?P<boxed>[^]]*)\](?::(?P<boxed_port>.*))?|(?P<bare>[^:]*:[^:]*:.*)|(?P<plain>[^:]*)(?::(?P<port>.*))?"
)


@command("trace", "Show what would become of a packet, and why; nothing is sent and nothing changes.")
@click.argument("words", nargs=-1, metavar="tcp|udp|icmp SRC[:PORT] DST[:PORT]", shell_complete=offering(_PROTOCOLS))
@click.option(
    *("--iface", "interface"),
    default="",
    help="Interface it comes in by; without it where SRC is routed to",
    shell_complete=suggesting("interfaces"),
)
@click.option("--flags", default="", help="tcp: S, SA, A, FA, R and the like [S]")
@click.pass_context
def trace(ctx: click.Context, words: tuple[str, ...], interface: str, flags: str) -> None:
    """Ask for a trace and print it."""
    if len(words) != 3 or words[0] not in _PROTOCOLS:
        raise CommandError(f"trace needs {'|'.join(_PROTOCOLS)} SRC DST, as in: trace tcp 10.0.0.1:4000 20.20.20.1:80")
    protocol, (source, source_port), (destination, destination_port) = (
        words[0],
        _end_of(words[1], "SRC", needs_port=words[0] != "icmp"),
        _end_of(words[2], "DST", needs_port=words[0] != "icmp"),
    )
    request = TraceRequest(
        protocol=protocol,
        source_ip=source,
        source_port=source_port,
        destination_ip=destination,
        destination_port=destination_port,
        interface=interface,
        flags=flags,
    )
    answer = call(server_of(ctx), "POST", "/trace", body=encode(request))
    if answer.status != _OK:
        raise CommandError(reason_of(answer))
    found = wire_json.decode(answer.body, type=TraceAnswer)
    if structured(ctx):
        show_structure(ctx, {name: value for name, value in plain(found).items() if value is not None})
    else:
        print("\n".join(f"{name:<11}{text}" for name, text in _lines(found)))


def _end_of(text: str, name: str, *, needs_port: bool) -> tuple[str, int]:
    """Read an address with a port, or (ICMP) maybe an identifier; raises CommandError."""
    match = _END.fullmatch(text)
    parts = match.groupdict() if match else {}
    address = parts.get("boxed") or parts.get("bare") or parts.get("plain") or ""
    port = parts.get("boxed_port") or parts.get("port") or ""
    if not address:
        raise CommandError(f"{name} {text!r}: there is no address in it")
    if not port and needs_port:
        hint = f"[{address}]:PORT" if ":" in address else f"{address}:PORT"
        raise CommandError(f"{name} {text!r}: a port is needed, as in {hint}")
    if port and not (port.isascii() and port.isdecimal() and 1 <= int(port) <= _HIGHEST_PORT):
        raise CommandError(f"{name} {text!r}: {port!r} is not a number within 1 to {_HIGHEST_PORT}")
    return address, int(port or 0)


def _lines(answer: TraceAnswer) -> list[tuple[str, str]]:
    lines = [("packet", f"{packet_text(answer.packet)}, in by {answer.interface}")]
    if answer.flow:
        lines.append(("flow", _flow_text(answer.flow)))
    if answer.untraced:
        lines.append((answer.untraced, "cannot be traced at this interface"))
    for hook in answer.hooks:
        cause = f" ({hook.cause})" if hook.cause else ""
        lines.append((hook.hook, f"{hook.verdict:<10} {hook.reason}{cause}; {hook.step}"))
    if answer.service:
        service = answer.service
        ports = f"{service.port}-{service.port_max}" if service.port_max else f"{service.port}"
        name = f"{service.name}, " if service.name else ""
        lines.append(("rule", f"{name}{_end(service.external_ip, ports)} {service.protocol}"))
    if answer.endpoint:
        lines.append(("endpoint", _end(answer.endpoint.endpoint_ip, str(answer.endpoint.target_port))))
    if answer.sent:
        name = "answer" if answer.verdict == "answered" else "rewritten"
        lines.append((name, packet_text(answer.sent) + _macs_text(answer.sent)))
    if answer.next_hop:
        lines.append(("next hop", _next_hop_text(answer.next_hop)))
    return lines


def packet_text(packet: PacketHeaders) -> str:
    """Describe a packet in one line: ``tcp 10.0.0.1:4000 > 20.20.20.1:80 [S] ttl 64``."""
    flags = f" [{packet.flags}]" if packet.flags else ""
    source = _end(packet.source_ip, str(packet.source_port or ""))
    destination = _end(packet.destination_ip, str(packet.destination_port or ""))
    return f"{packet.protocol} {source} > {destination}{flags} ttl {packet.ttl}"


def _end(address: str, port: str) -> str:
    boxed = f"[{address}]" if ":" in address and port else address
    return f"{boxed}:{port}" if port else boxed


def _macs_text(packet: PacketHeaders) -> str:
    return f", {packet.source_mac} > {packet.destination_mac}" if packet.source_mac else ""


def _flow_text(flow: TraceFlow) -> str:
    way = "from the endpoint" if flow.reply else "from the client"
    return f"{flow.state}, {way}, {flow.table}, idle {flow.idle:.1f} s, age {flow.age:.1f} s"


def _next_hop_text(hop: NextHop) -> str:
    if hop.mac:
        return f"{hop.interface}, neighbour {hop.mac}"
    return f"{hop.interface}, neighbour {hop.gateway} not resolved, handed to the stack"

# SPDX-License-Identifier: Apache-2.0
"""``loxicmd create``, ``get`` and ``delete endpoint``."""

from collections.abc import Sequence
from ipaddress import ip_address

import click
from msgspec.json import encode

from loxiapi.client import segments
from loxiapi.wire import PROBE_TYPES, MonitoredEndpoint, MonitoredEndpointEntry, MonitoredEndpointList
from loxicmd.grammar import CommandError, command, offering, reject_surplus, server_of, suggesting
from loxicmd.output import call, fetch, plain, show_result, show_structure, show_table, structured
from loxicmd.watching import Watchable

_PATH = "/config/endpoint"
_WITHOUT_PORT = ("ping", "none")
_HEADER = (
    *("Host", "Name", "ptype", "port", "duration", "retries"),
    *("minDelay", "avgDelay", "maxDelay", "State"),
)

_name = click.option("--name", default="", help="Name of the endpoint")
_port = click.IntRange(0, 65535)


@command("endpoint", "Check the endpoint IP.")
@click.argument("words", nargs=-1, metavar="IP")
@_name
@click.option("--desc", default="", help="The same as --name (deprecated)")
@click.option("--probetype", default="ping", help="|".join(PROBE_TYPES), shell_complete=offering(PROBE_TYPES))
@click.option("--probereq", default="", help="Path (http, https) or what is sent (tcp, udp)")
@click.option("--proberesp", default="", help="Body or answer that must come back")
@click.option("--probeport", type=_port, default=0, help="Port that is probed")
@click.option("--period", type=click.IntRange(0, 86400), default=60, help="Seconds between two probes")
@click.option("--retries", type=click.IntRange(0, 100), default=2, help="Probes that must fail in a row")
@click.pass_context
def create(ctx: click.Context, /, words: tuple[str, ...], name: str, desc: str, **probe: object) -> None:
    """Have an endpoint checked, or have it checked otherwise."""
    kind, port = str(probe["probetype"]), probe["probeport"]
    if kind not in PROBE_TYPES:
        raise CommandError(f"probetype '{kind}' is not one of {', '.join(PROBE_TYPES)}")
    if kind not in _WITHOUT_PORT and not port:
        raise CommandError(f"probetype {kind} needs --probeport")
    if kind == "ping" and port:
        raise CommandError("probetype ping takes no --probeport")
    body = MonitoredEndpoint(
        host_name=_address_of(words, "create"),
        name=name or desc,
        retries=probe["retries"],  # type: ignore[arg-type]  # click converted each flag to its field's type
        probe_type=kind,
        probe_request=str(probe["probereq"]),
        probe_response=str(probe["proberesp"]),
        probe_duration=probe["period"],  # type: ignore[arg-type]
        probe_port=port,  # type: ignore[arg-type]
    )
    show_result(ctx, call(server_of(ctx), "POST", _PATH, body=encode(body)))


@command("endpoint", "Stop to check the endpoint IP.")
@click.argument("words", nargs=-1, metavar="IP", shell_complete=suggesting("endpoint_addresses"))
@_name
@click.option("--probetype", default="", help="Which of several: its probe type")
@click.option("--probeport", type=_port, default=None, help="Which of several: its port")
@click.pass_context
def delete(ctx: click.Context, words: tuple[str, ...], name: str, probetype: str, probeport: int | None) -> None:
    """Delete by name, by type and port, or the only endpoint of an address."""
    given = {"name": name, "probe_type": probetype, "probe_port": "" if probeport is None else str(probeport)}
    if probeport is not None and not probetype:
        given["probe_type"] = "ping"
    query = {field: text for field, text in given.items() if text}
    path = _PATH + segments("epipaddress", _address_of(words, "delete"))
    show_result(ctx, call(server_of(ctx), "DELETE", path, query=query))


@command("endpoint", "Show endpoints and their health.", Watchable)
@click.argument("words", nargs=-1, metavar="")
@click.pass_context
def show(ctx: click.Context, words: tuple[str, ...]) -> None:
    """Show endpoints, sorted by host and name."""
    reject_surplus(words, 0)
    found = fetch(ctx, f"{_PATH}/all", MonitoredEndpointList)
    if structured(ctx):
        show_structure(ctx, plain(found))
        return
    show_table(_HEADER, [_cells(entry) for entry in sorted(found.entries, key=lambda one: (one.host_name, one.name))])


def _address_of(words: Sequence[str], verb: str) -> str:
    reject_surplus(words, 1)
    if not words:
        raise click.UsageError(f"{verb} endpoint need IP args")
    try:
        ip_address(words[0])
    except ValueError:
        raise CommandError(f"Endpoint IP '{words[0]}' is invalid format") from None
    return words[0]


def _cells(entry: MonitoredEndpointEntry) -> list[str]:
    return [
        *(entry.host_name, entry.name, f"{entry.probe_type}:{entry.probe_request}", str(entry.probe_port)),
        *(str(entry.probe_duration), str(entry.retries)),
        *(entry.min_delay, entry.avg_delay, entry.max_delay, entry.state),
    ]

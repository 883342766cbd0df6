# SPDX-License-Identifier: Apache-2.0
"""``loxicmd apply``: saved files and documents back into the load balancer."""

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

import click

from loxiapi.client import Answer
from loxiapi.refusal import RefusedError
from loxiapi.saved import (
    ENDPOINTS_FILE,
    ENDPOINTS_MEMBER,
    RULES_FILE,
    RULES_MEMBER,
    BadFileError,
    endpoint_of,
    entries_in,
    rule_of,
)
from loxiapi.wire import Wire, encode
from loxicmd.grammar import CommandError, command, reject_surplus, server_of
from loxicmd.output import call, reason_of
from loxicmd.saving import files_in

_CONFIG_PATH = "/etc/loxilb/"
_API_VERSION = "netlox/v1"
_RULE_KINDS = ("Loadbalancer", "lb", "LB")
_ENDPOINT_KINDS = ("Endpoint", "ep", "endpoints")
_KINDS_NOT_BUILT = (
    *("FDB", "fdb", "Firewall", "fw", "firewalls", "firewall", "ipv4address", "ipv4", "ipaddress", "ip", "IP"),
    *("IPaddress", "mirror", "mirr", "mirrors", "Mirror", "nei", "neigh", "Neighbor", "Neigh", "neighbor"),
    *("Policy", "pol", "policys", "pols", "polices", "Route", "route", "Session", "session", "sessions"),
    *("SessionULCL", "ulcl", "sessionulcls", "ulcls", "ULCL", "VlanMember", "vlanMember", "vlan-member"),
    *("vlan_member", "vlanmember", "Vlan", "vlan", "VxlanPeer", "vxlanpeer", "vxlan-peer", "vxlan_peer"),
    *("Vxlan", "vxlan", "BFD", "bfd"),
)
_MISSING = ("ip", "per_intf", "ipv4route", "session", "ulcl", "firewall", "bfd")
_OK, _EXISTS = 200, 409


class _Request(NamedTuple):
    """One write, and where in its file it stands; ``member`` is that of a list of such writes, "" without one."""

    place: str
    path: str
    body: bytes
    member: str


class _Kind(NamedTuple):
    path: str
    member: str
    decode: Callable[[object], Wire]
    listed: bool


_LONG_WORK = 100  # entries; fewer are done before a bar could be read
_TOGETHER = 1000  # entries of a request: few enough for a bar that moves, and for a server to hold beside its own
_RULES = _Kind("/config/loadbalancer", RULES_MEMBER, rule_of, listed=True)
_ENDPOINTS = _Kind("/config/endpoint", ENDPOINTS_MEMBER, endpoint_of, listed=False)
_BY_NAME: Mapping[str, _Kind] = dict.fromkeys(_RULE_KINDS, _RULES) | dict.fromkeys(_ENDPOINT_KINDS, _ENDPOINTS)


@command("apply", "Apply saved files, or a document.")
@click.argument("words", nargs=-1, metavar="")
@click.option("-f", "--file", "document", default="", help="YAML: apiVersion, kind, spec")
@click.option("-l", "--lb", "rules", default="", help=f"Saved rules ({RULES_FILE})")
@click.option("--endpoint", "--ep", "endpoints", default="", help=f"Saved endpoints ({ENDPOINTS_FILE})")
@click.option("-a", "--all", "every", is_flag=True, help="Every saved file")
@click.option("-c", "--config-path", default=_CONFIG_PATH, help=f"With --all: where the files are [{_CONFIG_PATH}]")
@click.option("-i", "--ip", default="", help="Not built yet")
@click.option("--per-intf", default="", help="Not built yet")
@click.option("-r", "--ipv4route", is_flag=True, help="Not built yet")
@click.option("--session", default="", help="Not built yet")
@click.option("--ulcl", default="", help="Not built yet")
@click.option("--firewall", default="", help="Not built yet")
@click.option("--bfd", default="", help="Not built yet")
@click.pass_context
def apply(ctx: click.Context, /, words: tuple[str, ...], config_path: str, **given: Any) -> None:
    """Read all, check all, then send, many rules at once; what is there already is left as it is."""
    reject_surplus(words, 0)
    for name in _MISSING:
        if given[name]:
            raise CommandError(f"--{name.replace('_', '-')} is not built yet")
    files = [(path, _ENDPOINTS) for path in _paths(given["endpoints"])]
    files += [(path, _RULES) for path in _paths(given["rules"])]
    if given["every"]:
        files += [(path, _ENDPOINTS) for path in files_in(config_path, (ENDPOINTS_FILE,))]
        files += [(path, _RULES) for path in files_in(config_path, (RULES_FILE,))]
        if not files:
            raise CommandError(f"There is no saved config file in {config_path}")
    work = [(path, _saved(path, kind)) for path, kind in files]
    work += [(path, _documents(path)) for path in _paths(given["document"])]
    if not work:
        raise click.UsageError("Provide valid options")
    failed = [path for path, requests in work if not _send(ctx, path, requests)]
    if failed:
        raise CommandError(f"not applied whole: {', '.join(map(str, failed))}")


def _paths(given: str) -> list[Path]:
    return [Path(given)] if given else []


def _saved(path: Path, kind: _Kind) -> list[_Request]:
    """Read a saved file; raises CommandError for the first entry that is wrong."""
    try:
        entries = entries_in(_read(path), kind.member)
    except BadFileError as error:
        raise CommandError(f"{path}: {error}") from error
    return [_request(f"{path} {kind.member} {number}", kind, entry) for number, entry in enumerate(entries, 1)]


def _documents(path: Path) -> list[_Request]:
    """Read YAML documents; raises CommandError."""
    import yaml  # noqa: PLC0415 costs more than the rest of a call, and few ask for it

    try:
        documents = list(yaml.safe_load_all(_read(path)))
    except (yaml.YAMLError, ValueError) as error:  # the latter for a date that there is not
        raise CommandError(f"{path}: {' '.join(str(error).split())}") from error
    numbered = [(number, one) for number, one in enumerate(documents, 1) if one is not None]
    return list(_described(path, numbered))


def _described(path: Path, documents: Sequence[tuple[int, Any]]) -> Iterator[_Request]:
    for number, document in documents:
        place = f"{path} document {number}"
        if not isinstance(document, dict):
            raise CommandError(f"{place}: a mapping with apiVersion, kind and spec is needed")
        version, kind = document.get("apiVersion", _API_VERSION), str(document.get("kind", ""))
        if version != _API_VERSION:
            raise CommandError(f"{place}: apiVersion: {version!r} is not {_API_VERSION}")
        if kind in _KINDS_NOT_BUILT:
            raise CommandError(f"{place}: kind: {kind} is not built yet")
        if kind not in _BY_NAME:
            raise CommandError(f"{place}: kind: {kind!r} Not Supported")
        yield _request(place, _BY_NAME[kind], document.get("spec"))


def _request(place: str, kind: _Kind, entry: object) -> _Request:
    try:
        return _Request(place, kind.path, encode(kind.decode(entry)), kind.member if kind.listed else "")
    except RefusedError as refused:
        raise CommandError(f"{place}: {refused}") from refused
    except (TypeError, ValueError) as error:  # YAML knows dates and circles, which no member is
        raise CommandError(f"{place}: {error}") from error


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CommandError(f"cannot read {path}: {error.strerror}") from error


def _send(ctx: click.Context, path: Path, requests: Sequence[_Request]) -> bool:
    """Send all, also after one that is refused; tells whether none was."""
    applied = True
    quiet = not sys.stderr.isatty() or len(requests) < _LONG_WORK
    with click.progressbar(length=len(requests), label=str(path), file=sys.stderr, hidden=quiet) as shown:
        for member, group in groupby(requests, key=attrgetter("member")):
            for batch in _batches(list(group), _TOGETHER if member else 1):
                applied &= _sent_together(ctx, member, batch) or _sent_singly(ctx, batch)
                shown.update(len(batch))
    print(f"Configuration {'applied' if applied else 'failed'} - {path}")
    return applied


def _batches(requests: list[_Request], size: int) -> Iterator[list[_Request]]:
    return (requests[at : at + size] for at in range(0, len(requests), size))


def _sent_together(ctx: click.Context, member: str, batch: Sequence[_Request]) -> bool:
    """Send a batch in one request, which is carried out as a whole or not at all; tells whether it was."""
    if len(batch) == 1:
        return False
    body = b'{"%s":[%s]}' % (member.encode(), b",".join(request.body for request in batch))
    return call(server_of(ctx), "POST", batch[0].path, body=body).status == _OK


def _sent_singly(ctx: click.Context, batch: Sequence[_Request]) -> bool:
    """Send each by itself, also after one that is refused; tells whether none was."""
    applied = True
    for request in batch:
        answer = call(server_of(ctx), "POST", request.path, body=request.body)
        if answer.status != _OK and not _is_there(answer):
            click.echo(f"Error: {request.place}: {reason_of(answer)}", err=True)
            applied = False
    return applied


def _is_there(answer: Answer) -> bool:
    """Tell whether the server refused because nothing would change, and not because another rule has the port."""
    if answer.status != _EXISTS or answer.cause.startswith("port: "):
        return False
    return bool(json.loads(answer.body).get("result") == "lbrule-exists error")

# SPDX-License-Identifier: Apache-2.0
"""``loxicmd save``: the configuration as the original's files."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import msgspec

from loxiapi.saved import ENDPOINTS_FILE, ENDPOINTS_MEMBER, RULES_FILE, RULES_MEMBER
from loxiapi.wire import (
    EndpointEntry,
    LoadBalancerEntry,
    LoadBalancerList,
    MonitoredEndpointEntry,
    MonitoredEndpointList,
)
from loxicmd.grammar import CommandError, command, reject_surplus
from loxicmd.output import fetch, plain
from loxicmd.rules import original_form

_CONFIG_PATH = "/etc/loxilb/"
_INDENT = 4
_FOREIGN = "ipvs"
_MISSING = ("ip", "session", "ulcl", "firewall", "bfd")
_ENDPOINT_MEMBERS = (
    *("hostName", "name", "inactiveReTries", "probeType", "probeReq", "probeResp"),
    *("probeDuration", "probePort"),
)


@command("save", "Save the configuration in files.")
@click.argument("words", nargs=-1, metavar="")
@click.option("-a", "--all", "every", is_flag=True, help="Everything")
@click.option("-l", "--lb", "rules", is_flag=True, help=f"Load balancer rules ({RULES_FILE})")
@click.option("--endpoint", "--ep", "endpoints", is_flag=True, help=f"Endpoints to probe ({ENDPOINTS_FILE})")
@click.option("-i", "--ip", is_flag=True, help="Not built yet")
@click.option("--session", is_flag=True, help="Not built yet")
@click.option("--ulcl", is_flag=True, help="Not built yet")
@click.option("--firewall", is_flag=True, help="Not built yet")
@click.option("--bfd", is_flag=True, help="Not built yet")
@click.option("-c", "--config-path", default=_CONFIG_PATH, help=f"Directory of the files [{_CONFIG_PATH}]")
@click.pass_context
def save(ctx: click.Context, /, words: tuple[str, ...], config_path: str, **wanted: bool) -> None:
    """Write each file whole or not at all; the one before it is kept as .bk."""
    reject_surplus(words, 0)
    for name in _MISSING:
        if wanted[name]:
            raise CommandError(f"--{name} is not built yet")
    rules, endpoints = wanted["every"] or wanted["rules"], wanted["every"] or wanted["endpoints"]
    if not rules and not endpoints:
        raise click.UsageError("Provide valid options")
    folder = Path(config_path)
    if rules:
        _write(folder / RULES_FILE, {RULES_MEMBER: _rules(ctx)}, "LB")
    if endpoints:
        _write(folder / ENDPOINTS_FILE, {ENDPOINTS_MEMBER: _endpoints(ctx)}, "EndPoint")


def _rules(ctx: click.Context) -> list[dict[str, Any]]:
    """Return the rules that are an operator's own: not those of Kubernetes, nor those that follow from other things."""
    found = fetch(ctx, "/config/loadbalancer/all", LoadBalancerList).entries
    return [_rule(entry) for entry in found if _is_own(entry)]


def _is_own(entry: LoadBalancerEntry) -> bool:
    arguments = entry.service_arguments
    return not (arguments.managed or arguments.snat or _FOREIGN in arguments.name)


def _rule(entry: LoadBalancerEntry) -> dict[str, Any]:
    """Return a rule without what only the moment decides."""
    configured = [
        EndpointEntry(endpoint_ip=one.endpoint_ip, target_port=one.target_port, weight=one.weight)
        for one in entry.endpoints
    ]
    return original_form(msgspec.structs.replace(entry, endpoints=configured, removed_endpoints=[]))


def _endpoints(ctx: click.Context) -> list[dict[str, Any]]:
    found = fetch(ctx, "/config/endpoint/all", MonitoredEndpointList).entries
    return [_endpoint(entry) for entry in found if entry.configured]


def _endpoint(entry: MonitoredEndpointEntry) -> dict[str, Any]:
    members = plain(entry)
    return {name: members[name] for name in _ENDPOINT_MEMBERS}


def _write(path: Path, document: object, what: str) -> None:
    """Replace the file in one step; a reader sees the old one or the new one."""
    new = path.with_name(path.name + ".new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _write_durably(new, json.dumps(document, indent=_INDENT, ensure_ascii=False) + "\n")
        if path.exists():
            _link_again(path, path.with_name(path.name + ".bk"))
        else:
            print("There is no saved config file")
        new.replace(path)
    except OSError as error:
        raise CommandError(f"cannot write {path}: {error.strerror}") from error
    print(f"{what} Configuration saved in {path}")


def _write_durably(path: Path, text: str) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _link_again(path: Path, backup: Path) -> None:
    backup.unlink(missing_ok=True)
    backup.hardlink_to(path)


def files_in(folder: str, names: Sequence[str]) -> list[Path]:
    """Return those of the saved files that are there."""
    return [path for name in names if (path := Path(folder) / name).exists()]

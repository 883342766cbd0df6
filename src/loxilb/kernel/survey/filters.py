# SPDX-License-Identifier: Apache-2.0
"""Packet filters, as nft(8) lists them; iptables of today keeps its rules there too."""

import json
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from loxilb.model.survey import Chain

_TRANSLATING = frozenset({"dnat", "snat", "masquerade", "redirect"})
_XT_TRANSLATING = frozenset({"DNAT", "SNAT", "MASQUERADE", "REDIRECT"})
_LEGACY = ("net/ip_tables_names", "net/ip6_tables_names")
_PATIENCE_S = 20


def chains() -> list[Chain] | None:
    """Return the chains with a hook; None where they cannot be listed."""
    program = shutil.which("nft")
    if program is None:
        return None
    try:
        done = subprocess.run([program, "-j", "list", "ruleset"], capture_output=True, timeout=_PATIENCE_S, check=True)
        return list(chains_of(json.loads(done.stdout)))
    except (OSError, subprocess.SubprocessError, ValueError):
        return None


def chains_of(document: Any) -> Iterator[Chain]:
    """Read the chains with a hook out of nft's JSON (libnftables-json(5))."""
    items = document.get("nftables", [])
    rewriting = {_place(item["rule"]) for item in items if "rule" in item and _translates(item["rule"])}
    for chain in (item["chain"] for item in items if "chain" in item):
        if "hook" in chain:
            family, table, name = place = _place(chain)
            yield Chain(
                table=f"{family} {table}",
                name=name,
                hook=chain["hook"],
                policy=chain.get("policy", "accept"),
                rewrites=place in rewriting,
            )


def _place(thing: Any) -> tuple[str, str, str]:
    return thing["family"], thing["table"], thing.get("chain") or thing["name"]


def _translates(rule: Any) -> bool:
    statements = [statement for statement in rule.get("expr", []) if isinstance(statement, dict)]
    names = {name for statement in statements for name in statement}
    targets = {one["xt"].get("name") for one in statements if isinstance(one.get("xt"), dict)}
    return bool(names & _TRANSLATING or targets & _XT_TRANSLATING)


def legacy_tables(proc: Path = Path("/proc/thread-self")) -> Sequence[str]:
    """Return the tables of iptables-legacy in use; listing their rules would load modules, so nobody does."""
    files = [proc / name for name in _LEGACY]
    return sorted({word for file in files if file.exists() for word in file.read_text().split()})

# SPDX-License-Identifier: Apache-2.0
"""Saved configuration: files that ``loxicmd save`` writes and the daemon reads at its first start.

The original's command line and daemon spell some members differently, so that its saved ``security`` and ``host`` are
lost; both spellings are read here. Every entry is decoded as the request that it stands for.
"""

import json
from typing import Any, TypeVar

from loxiapi.decode import decode_body
from loxiapi.exact import exactly
from loxiapi.wire import LoadBalancerEntry, MonitoredEndpoint, Wire

RULES_FILE, RULES_MEMBER = "lbconfig.txt", "lbAttr"
ENDPOINTS_FILE, ENDPOINTS_MEMBER = "EPconfig.txt", "Attr"
NOT_BUILT_FILES = ("sessionconfig.txt", "sessionulclconfig.txt", "FWconfig.txt", "BFDconfig.txt")

_W = TypeVar("_W", bound=Wire)
_SPELLINGS = {"lbsec": "security", "path": "host"}
_AS_DECLARED = {"BGP": "bgp", "Monitor": "monitor"}


class BadFileError(ValueError):
    """A file that is no saved configuration; the text says where."""


def entries_in(content: bytes, member: str) -> list[Any]:
    """Return the entries of a saved file, not yet decoded; raises BadFileError."""
    try:
        document = json.loads(content)
    except json.JSONDecodeError as error:
        raise BadFileError(f"line {error.lineno} column {error.colno}: {error.msg}") from error
    except UnicodeDecodeError as error:
        raise BadFileError(str(error)) from error
    found = document.get(member) if isinstance(document, dict) else None
    if document == {member: None}:
        return []
    if not isinstance(found, list):
        raise BadFileError(f"no list {member} in it")
    return found


def rule_of(entry: object) -> LoadBalancerEntry:
    """Decode one rule in either spelling; raises RefusedError."""
    arguments = entry.get("serviceArguments") if isinstance(entry, dict) else None
    if isinstance(entry, dict) and isinstance(arguments, dict):
        spelt = {_SPELLINGS.get(str(name), name): one for name, one in arguments.items()}
        entry = {**entry, "serviceArguments": spelt}
        written = {_AS_DECLARED.get(str(name), name): one for name, one in spelt.items()}
        exact = exactly(
            {**{name: one for name, one in entry.items() if one is not None}, "serviceArguments": written},
            LoadBalancerEntry,
        )
        if exact is not None and len(written) == len(arguments):
            return exact
    return _decoded(entry, LoadBalancerEntry)


def endpoint_of(entry: object) -> MonitoredEndpoint:
    """Decode one endpoint to be probed; raises RefusedError."""
    return _decoded(entry, MonitoredEndpoint)


def _decoded(entry: object, kind: type[_W]) -> _W:
    return decode_body(json.dumps(entry).encode(), kind)

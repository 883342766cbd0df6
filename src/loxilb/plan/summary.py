# SPDX-License-Identifier: Apache-2.0
"""One line on what a write does, for those who read the history."""

from collections.abc import Collection, Iterator, Mapping, Sequence

from loxilb.model import Service, ServiceKey
from loxilb.model.revision import LOG_LEVEL, Changes

_LISTED = 3
_PARAMETERS = {LOG_LEVEL: "log level"}


def summary(changes: Changes, present: Collection[ServiceKey]) -> str:
    """Say what ``changes`` do where the services ``present`` are there before.

    A few objects are named, many are counted.
    """
    return "; ".join((*_services(changes.services, present), *_others(changes))) or "nothing"


def _services(services: Mapping[ServiceKey, Service | None], present: Collection[ServiceKey]) -> Iterator[str]:
    kept, deleted = [key for key, one in services.items() if one], [key for key, one in services.items() if not one]
    created = [key for key in kept if key not in present]
    changed = [key for key in kept if key in present] if len(created) < len(kept) else []
    for verb, keys in (("create", created), ("change", changed), ("delete", deleted)):
        if keys:
            yield f"{verb} {_named('service', keys)}"


def _others(changes: Changes) -> Iterator[str]:
    probed = [name for name, one in changes.endpoints.items() if one]
    dropped = [name for name, one in changes.endpoints.items() if one is None]
    for verb, names in (("probe", probed), ("no longer probe", dropped)):
        if names:
            yield f"{verb} {_named('endpoint', names)}"
    for state in sorted({one.value if one else "green" for one in changes.states.values()}):
        names = [name for name, one in changes.states.items() if (one.value if one else "green") == state]
        yield f"{state} {_named('endpoint', names)}"
    for name, value in changes.parameters.items():
        yield f"{_PARAMETERS.get(name, name)} {value or 'as started'}"


def _named(what: str, names: Sequence[str] | Sequence[ServiceKey]) -> str:
    return f"{what} {', '.join(map(_text, names))}" if len(names) <= _LISTED else f"{len(names)} {what}s"


def _text(key: ServiceKey | str) -> str:
    if isinstance(key, str):
        return key
    address = f"[{key.address}]" if key.address.version == 6 else str(key.address)
    ports = f"{key.port}" if key.port == key.port_max else f"{key.port}-{key.port_max}"
    return f"{address}:{ports}/{key.protocol.value}" + (f" {key.host}" if key.host else "")

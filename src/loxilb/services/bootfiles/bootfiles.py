# SPDX-License-Identifier: Apache-2.0
"""Endpoints first, then rules, as the original does."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import structlog

from loxiapi import saved
from loxiapi.refusal import RefusedError
from loxiapi.wire import LoadBalancerEntry, MonitoredEndpoint, Wire
from loxilb.codec.endpoints import endpoint_of
from loxilb.codec.rules import service_of
from loxilb.errors import InvalidRequest, LoxilbError
from loxilb.model.revision import Author, Changes
from loxilb.plan import check_supported
from loxilb.ports import CheckedJournal

_W = TypeVar("_W", bound=Wire)

_log = structlog.get_logger(__name__)


class _Entry(NamedTuple):
    """One object of a file, and where it stands."""

    origin: str
    changes: Changes


async def import_files(directory: Path, journal: CheckedJournal) -> int:
    """Carry out what the saved files of ``directory`` hold and return how many entries that were.

    An entry that is refused is logged and left out. Raises LoxilbError for a file that cannot be read or is no saved
    configuration, before anything is carried out, and StoreError.
    """
    entries = [
        *_read(directory / saved.ENDPOINTS_FILE, saved.ENDPOINTS_MEMBER, saved.endpoint_of, _endpoint),
        *_read(directory / saved.RULES_FILE, saved.RULES_MEMBER, saved.rule_of, _rule),
    ]
    for name in saved.NOT_BUILT_FILES:
        if (directory / name).exists():
            _log.warning("boot file left out: what it holds is not built yet", file=str(directory / name))
    if not entries:
        return 0
    done = await _carry_out(entries, journal, Author(agent=f"boot files of {directory}"))
    _log.info("boot files imported", directory=str(directory), entries=done)
    return done


async def _carry_out(entries: Sequence[_Entry], journal: CheckedJournal, author: Author) -> int:
    """Carry out in one write what can be: a start that is interrupted has imported all or nothing."""
    wanted, sound = list(entries), 0
    while error := await _refusal(wanted, journal):
        sound, error = await _first_refused(wanted, sound, error, journal)
        _refused(wanted.pop(sound).origin, error)
    await journal.keep(_together(wanted), author=author)
    return len(wanted)


async def _first_refused(
    entries: Sequence[_Entry], sound: int, error: InvalidRequest, journal: CheckedJournal
) -> tuple[int, InvalidRequest]:
    """Return the first entry that is refused with those before it, and why; the first ``sound`` ones are not."""
    beyond = len(entries)
    while beyond - sound > 1:
        middle = (sound + beyond) // 2
        found = await _refusal(entries[:middle], journal)
        if found is None:
            sound = middle
        else:
            beyond, error = middle, found
    return sound, error


async def _refusal(entries: Sequence[_Entry], journal: CheckedJournal) -> InvalidRequest | None:
    try:
        await journal.check(_together(entries))
    except InvalidRequest as error:
        return error
    return None


def _together(entries: Sequence[_Entry]) -> Changes:
    return Changes(
        services={key: one for entry in entries for key, one in entry.changes.services.items()},
        endpoints={name: one for entry in entries for name, one in entry.changes.endpoints.items()},
    )


def _read(
    path: Path, member: str, decode: Callable[[object], _W], changes_of: Callable[[_W], Changes]
) -> Iterator[_Entry]:
    for number, entry in enumerate(_entries(path, member), 1):
        origin = f"{path} {member} {number}"
        try:
            yield _Entry(origin, changes_of(decode(entry)))
        except (RefusedError, InvalidRequest) as error:
            _refused(origin, error)


def _entries(path: Path, member: str) -> list[Any]:
    remedy = "correct the file, or move it away"
    try:
        return saved.entries_in(path.read_bytes(), member)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise LoxilbError(f"cannot read {path}: {error.strerror}", remedy=remedy) from error
    except saved.BadFileError as error:
        raise LoxilbError(f"{path} is no saved configuration: {error}", remedy=remedy) from error


def _rule(entry: LoadBalancerEntry) -> Changes:
    service = service_of(entry)
    check_supported(service)
    return Changes(services={service.key: service})


def _endpoint(entry: MonitoredEndpoint) -> Changes:
    endpoint = endpoint_of(entry)
    return Changes(endpoints={endpoint.name: endpoint})


def _refused(origin: str, error: RefusedError | InvalidRequest) -> None:
    _log.error("entry of a boot file refused", entry=origin, cause=str(error))

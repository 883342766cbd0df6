# SPDX-License-Identifier: Apache-2.0
"""Where the store of a network namespace is."""

from pathlib import Path

from loxilb.errors import StoreError

NO_STORE = "none"
_LASTING = Path("/var/lib/loxilb")
_PASSING = Path("/run/loxilb/store")
_SIDE_FILES = ("", "-wal", "-shm", "-journal")


def place_of(wanted: str, *, lasting: str | None, identity: str) -> Path | None:
    """Return the file; None for a store in memory.

    ``wanted`` is what the operator says, "" for nothing. ``lasting`` is the name by which the namespace is found again
    after a reboot; one without such a name is gone then, and so may its store be, below ``identity``.
    """
    if wanted == NO_STORE:
        return None
    if wanted:
        return Path(wanted)
    return _LASTING / f"{lasting}.db" if lasting is not None else _PASSING / f"{identity}.db"


def remove(path: Path | None) -> bool:
    """Delete a store that nobody has open; tells whether there was one. Raises StoreError."""
    if path is None:
        return False
    try:
        present = [one for suffix in _SIDE_FILES if (one := path.with_name(path.name + suffix)).exists()]
        for one in present:
            one.unlink()
    except OSError as error:
        raise StoreError(f"cannot delete {error.filename}: {error.strerror}", remedy="run as root") from error
    return bool(present)

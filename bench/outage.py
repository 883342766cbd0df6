# SPDX-License-Identifier: Apache-2.0
"""What clients notice of a restart, as a table and as JSON. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

BEGIN = "<!-- figures: written by python -m bench.restart --document -->"
_KINDS = ("keep", "open", "bulk")


@dataclass(frozen=True, slots=True, kw_only=True)
class Noticed:
    """What one stream saw: ``kind`` is keep, open or bulk; ``stall`` its longest time without progress, in ms."""

    kind: str
    version: int
    count: int
    failed: int
    resets: int
    stall: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One restart under load; ``took`` is the time in seconds until the new daemon was ready."""

    hook: str
    way: str
    took: float
    noticed: tuple[Noticed, ...]

    def stall(self, kind: str) -> float:
        """Return the longest stall of the streams of a kind, in ms."""
        return max(one.stall for one in self.noticed if one.kind == kind)


def _row(runs: Sequence[Run]) -> list[str]:
    noticed = [one for run in runs for one in run.noticed]
    stalls = [[run.stall(kind) for run in runs] for kind in _KINDS]
    return [
        runs[0].hook,
        runs[0].way,
        str(len(runs)),
        f"{median(run.took for run in runs):.1f}",
        str(sum(one.count for one in noticed if one.kind != "bulk")),
        str(sum(one.failed for one in noticed)),
        str(sum(one.resets for one in noticed)),
        *(f"{median(each):.1f} / {max(each):.1f}" for each in stalls),
    ]


_HEAD = ("hook", "way", "times", "seconds", "requests", "failed", "resets", "keep", "open", "bulk")


def table(runs: Sequence[Run]) -> str:
    """Return a Markdown table, one row a hook and way; stalls are median / longest of all runs, in ms."""
    groups: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        groups.setdefault((run.hook, run.way), []).append(run)
    rows = [list(_HEAD), ["---"] * 2 + ["---:"] * (len(_HEAD) - 2), *(_row(group) for group in groups.values())]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def as_json(runs: Sequence[Run], machine: Mapping[str, str]) -> dict[str, Any]:
    """Return everything measured as plain values."""
    return {"machine": dict(machine), "runs": [asdict(run) for run in runs]}


def from_json(data: Mapping[str, Any]) -> list[Run]:
    """Inverse of :func:`as_json`, of the runs."""
    return [Run(**{**run, "noticed": tuple(Noticed(**one) for one in run["noticed"])}) for run in data["runs"]]

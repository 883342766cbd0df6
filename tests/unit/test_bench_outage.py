# SPDX-License-Identifier: Apache-2.0
"""What is shown of restarts under load."""

import json

from bench.outage import Noticed, Run, as_json, from_json, table


def run(way: str, stall: float, *, failed: int = 0) -> Run:
    """Return a run whose streams all had the same stall, of which one failed so often."""
    streams = [
        Noticed(kind=kind, version=version, count=100, failed=failed * (kind == "open"), resets=0, stall=stall)
        for kind in ("keep", "open", "bulk")
        for version in (4, 6)
    ]
    return Run(hook="tc", way=way, took=2.0, noticed=tuple(streams))


def test_a_row_shows_the_worst_of_all_runs() -> None:
    """Stalls as median and longest, failures added up, bytes left out of the requests."""
    rows = table([run("killed", 3), run("stopped", 1), run("killed", 40, failed=2), run("killed", 4)]).splitlines()

    assert len(rows) == 4
    assert rows[2] == "| tc | killed | 3 | 2.0 | 1200 | 4 | 0 | 4.0 / 40.0 | 4.0 / 40.0 | 4.0 / 40.0 |"


def test_what_is_written_is_read_back() -> None:
    """As JSON."""
    runs = [run("killed", 3), run("stopped", 1, failed=1)]

    assert from_json(json.loads(json.dumps(as_json(runs, {"cpu": "any"})))) == runs

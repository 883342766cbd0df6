# SPDX-License-Identifier: Apache-2.0
"""How long a page of metrics takes: ``python -m bench.scrape`` prints it for ten thousand services."""

import statistics
import tempfile
from pathlib import Path

from tests.netns.test_metrics_scale import SERVICES, scrapes
from tests.support.lab import Lab

_ROUNDS = 7

if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder, Lab(folder=Path(folder)) as lab:
        found = scrapes(lab, _ROUNDS)
    seconds, work = (statistics.median(one) for one in zip(*((each.seconds, each.work) for each in found), strict=True))
    print(f"{SERVICES} services, {found[0].lines} lines: {seconds * 1e3:.0f} ms, {work * 1e3:.0f} ms of processor time")

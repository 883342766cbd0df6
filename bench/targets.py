# SPDX-License-Identifier: Apache-2.0
"""What the figures are held against: upper bounds, and what other programs cost on the same kind of machine."""

from collections.abc import Mapping
from typing import NamedTuple

TARGETS: Mapping[str, float] = {
    "program.xdp.established4": 35,
    "program.xdp.established6": 45,
    "program.xdp.random10k": 100,
    "program.xdp.random100k": 240,
    "program.xdp.new_fresh": 600,
    "program.xdp.new_steady": 600,
    "program.xdp.not_ours": 30,
    "program.tc.established4": 60,
    "frames.ratio.xdp": 0.27,
    "frames.ratio.tc": 0.6,
    "sockets.ratio.close.loxilb": 1.0,
    "sockets.ratio.keep.loxilb": 1.0,
    "sockets.ratio.bulk.loxilb": 1.0,
    "sockets.ratio.p50.loxilb": 1.0,
    "control.list": 200,
    "control.change": 10,
    "flows.list": 1000,
    "flows.longest": 50,
    "flows.scrape": 300,
    "flows.idle": 1,
    "scale.load": 3,
    "scale.kernel": 1,
    "scale.restart": 3,
    "scale.change": 10,
    "scale.reply": 10,
    "scale.memory10k": 150,
    "scale.idle": 1,
}
"""Upper bound of the median by figure, in the figure's unit."""


class Recorded(NamedTuple):
    """A figure of a peer that is not measured in the same run: built unpatched, driven by the same harness."""

    katran: float | None
    original: float | None


RECORDED: Mapping[str, Recorded] = {
    "established4": Recorded(katran=125, original=263),
    "established6": Recorded(katran=156, original=738),
    "random10k": Recorded(katran=135, original=802),
    "random100k": Recorded(katran=228, original=956),
    "new_steady": Recorded(katran=1027, original=2505),
    "udp": Recorded(katran=200, original=210),
    "reply": Recorded(katran=None, original=259),
    "fullnat": Recorded(katran=None, original=341),
    "not_ours": Recorded(katran=59, original=1553),
}
"""Program cost in ns per packet by case: katran (base features) on XDP, the loxilb written in Go on TC."""

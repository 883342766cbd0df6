# SPDX-License-Identifier: Apache-2.0
"""``loxilb doctor``: looks at the host and says what works, what does not, and what to do about it."""

import json
from collections.abc import Sequence
from pathlib import Path

from pyroute2.netlink.exceptions import NetlinkError

from loxilb.errors import KernelError
from loxilb.kernel import netns
from loxilb.kernel.survey import gather
from loxilb.model.survey import Finding, Level
from loxilb.plan.diagnosis import healthy, judge

_MARKS = {Level.OK: "ok     ", Level.WARNING: "warning", Level.PROBLEM: "PROBLEM"}

_COLOURS = {Level.OK: 32, Level.WARNING: 33, Level.PROBLEM: 31}


def examine(namespace: str | None, bpffs: Path | None, xdp: str) -> list[Finding]:
    """Look at the host of a network namespace (None: the caller's); raises KernelError."""
    if namespace is not None:
        netns.enter(namespace)
    try:
        return judge(gather(bpffs, xdp))
    except OSError as error:
        raise KernelError("look at the host", error.errno or 0, detail=str(error)) from error
    except NetlinkError as error:
        raise KernelError("look at the host", error.code, detail=str(error)) from error


def report(findings: Sequence[Finding], form: str, *, colours: bool = False) -> str:
    """Return the findings for people (``text``), in colours if wanted, or programs (``json``)."""
    if form == "json":
        shown = [
            {"check": one.check, "level": one.level.value, "found": one.found, "remedy": one.remedy} for one in findings
        ]
        return json.dumps({"healthy": healthy(list(findings)), "findings": shown}, indent=4, ensure_ascii=False)
    width = max(len(one.check) for one in findings)
    lines = [line for one in findings for line in _lines(one, width, colours)]
    return "\n".join([*lines, "", _verdict(findings)])


def _lines(finding: Finding, width: int, colours: bool) -> list[str]:
    mark = _MARKS[finding.level]
    if colours:
        mark = f"\x1b[{_COLOURS[finding.level]}m{mark}\x1b[0m"
    first = f"{mark}  {finding.check:<{width}}  {finding.found}"
    remedy = f"{'':7}  {'':<{width}}  -> {finding.remedy}"
    return [first, remedy] if finding.remedy else [first]


def _verdict(findings: Sequence[Finding]) -> str:
    problems, warnings = (sum(one.level is level for one in findings) for level in (Level.PROBLEM, Level.WARNING))
    counts = f"{problems} problem{'' if problems == 1 else 's'}, {warnings} warning{'' if warnings == 1 else 's'}"
    return f"loxilb will {'not ' if problems else ''}work here: {counts}"

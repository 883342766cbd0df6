# SPDX-License-Identifier: Apache-2.0
"""``loxilb doctor`` on real namespaces: a good one, one with traps, and that it leaves nothing behind."""

import json
from typing import Any

import pytest

from tests.netns.test_lifecycle import traces
from tests.support.lab import BIN, Lab, run
from tests.support.lab_star import Star, build

pytestmark = pytest.mark.must_run
_PATIENCE_S = 120


def doctor(star: Star, *flags: str) -> dict[str, Any]:
    """Return what it finds."""
    text = star.lb.namespace.run(BIN / "loxilb", *flags, "doctor", "-o", "json", timeout=_PATIENCE_S, check=False)
    found: dict[str, Any] = json.loads(text)
    return found


def wrong(found: dict[str, Any]) -> dict[str, str]:
    """Return the findings that are not fine, by check."""
    return {one["check"]: one["remedy"] for one in found["findings"] if one["level"] != "ok"}


def test_it_finds_traps_and_changes_nothing(lab: Lab) -> None:
    """Programs load and attach; MTUs and filters are seen; XDP on veth is warned of when asked for."""
    star = build(lab)
    before = traces(star)

    good = doctor(star)

    assert good["healthy"]
    assert wrong(good) == {}
    assert {one["check"] for one in good["findings"]} >= {"programs tc", "programs xdp", "tcx", "clsact", "xdp"}

    star.lb.namespace.run(
        "nft", "add table ip t; add chain ip t c { type filter hook forward priority 0; policy drop; }"
    )
    star.lb.namespace.ip("link set eclient mtu 1400")
    star.lb.namespace.sysctl(net__ipv6__conf__lo__disable_ipv6=1)
    trapped = wrong(doctor(star, "--xdp", "on"))

    assert trapped.keys() >= {"IPv6", "MTU", "packet filter", "XDP on eclient"}
    assert trapped["packet filter"].startswith("nft add rule ip t c accept")
    star.lb.namespace.run("nft", "delete table ip t")
    star.lb.namespace.ip("link set eclient mtu 1500")
    star.lb.namespace.sysctl(net__ipv6__conf__lo__disable_ipv6=0)
    assert traces(star) == before


def test_without_rights_it_says_which(lab: Lab) -> None:
    """The exit code is 1, and the capabilities that are missing are named."""
    star = build(lab, servers=1)
    bare = ("setpriv", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs")

    text = run(star.lb.namespace.enter_command(*bare, BIN / "loxilb", "doctor"), timeout=_PATIENCE_S, check=False)

    assert "CAP_NET_ADMIN is missing" in text
    assert text.splitlines()[-1].startswith("loxilb will not work here: ")

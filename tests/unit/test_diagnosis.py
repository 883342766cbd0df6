# SPDX-License-Identifier: Apache-2.0
"""What is made of a host's facts: each trap, and that a good host has none."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from loxilb.doctor import report
from loxilb.kernel.survey.filters import chains_of, legacy_tables
from loxilb.kernel.survey.gather import capabilities
from loxilb.model import LinkKind, Port
from loxilb.model.port import IfIndex
from loxilb.model.survey import Chain, Device, Finding, Level, Survey, Trial
from loxilb.plan.diagnosis import healthy, judge

TRIALS = tuple(Trial(name=name) for name in ("programs base", "programs tc", "programs sock", "tcx", "clsact", "xdp"))


def device(name: str = "eth0", kind: LinkKind = LinkKind.PHYSICAL, index: int = 2, **more: Any) -> Device:
    """Build an interface; what is not of the port is of the device."""
    own = {key: more.pop(key) for key in ("rp_filter", "foreign_xdp", "offloads") if key in more}
    port = {"mtu": 1500, "up": True, "carrier": True, "mac": b"\2" * 6, **more}
    return Device(port=Port(index=IfIndex(index), name=name, kind=kind, **port), **own)


GOOD = Survey(
    trials=TRIALS,
    capabilities=frozenset({"bpf", "net_admin", "perfmon", "net_raw", "sys_admin"}),
    bpffs="/sys/fs/bpf",
    bpffs_writable=True,
    forwarding={"IPv4": True, "IPv6": False},
    devices=(device(), device("eth1", index=3)),
    chains=(),
)


def survey(**changes: Any) -> Survey:
    """Build a good host but for ``changes``."""
    return replace(GOOD, **changes)


def without(*names: str) -> frozenset[str]:
    """Return all capabilities but some."""
    return GOOD.capabilities - set(names)


def failing(*names: str) -> tuple[Trial, ...]:
    """Return the trials, some of them failed."""
    return tuple(replace(one, error="Invalid argument") if one.name in names else one for one in TRIALS)


def test_a_good_host_has_nothing_to_mend() -> None:
    """Every subject is named, none needs a remedy."""
    findings = judge(GOOD)

    assert {one.level for one in findings} == {Level.OK}
    assert not any(one.remedy for one in findings)
    assert {one.check for one in findings} >= {
        "capabilities",
        "bpffs",
        "rp_filter",
        "interfaces",
        "MTU",
        "packet filter",
    }


VETH = device("veth0", LinkKind.VETH)
DROPPING = Chain(table="ip filter", name="FORWARD", hook="forward", policy="drop")
BRIDGE = (
    device("br0", LinkKind.BRIDGE, index=9),
    device("eth0", index=2, master=IfIndex(9), mtu=1500),
    device("eth1", index=3, master=IfIndex(9), mtu=9000),
)
TRAPS: dict[str, tuple[Survey, Level, str, str]] = {
    "verifier": (survey(trials=failing("programs tc")), Level.PROBLEM, "programs tc", "report"),
    "old": (survey(trials=(Trial(name="kernel", error="no bpf_loop"),)), Level.PROBLEM, "kernel", "Linux 5.10"),
    "no hooks": (survey(trials=failing("programs sock")), Level.WARNING, "programs sock", "Linux 5.17"),
    "no tcx": (survey(trials=failing("tcx")), Level.WARNING, "tcx", "Linux 6.6"),
    "no hook": (survey(trials=failing("tcx", "clsact")), Level.PROBLEM, "tcx", "Linux 6.6"),
    "no xdp": (survey(trials=failing("xdp")), Level.WARNING, "xdp", "Linux 5.9"),
    "cap_bpf": (survey(capabilities=without("bpf", "sys_admin")), Level.PROBLEM, "capabilities", "grant"),
    "no ping": (survey(capabilities=without("net_raw")), Level.WARNING, "capabilities", "grant"),
    "no bpffs": (
        survey(bpffs="", capabilities=without("sys_admin")),
        Level.PROBLEM,
        "bpffs",
        "mount -t bpf bpf /sys/fs/bpf",
    ),
    "bpffs of root": (survey(bpffs_writable=False), Level.PROBLEM, "bpffs", "mkdir /sys/fs/bpf/loxilb"),
    "other release": (survey(other_abi=("v0",)), Level.WARNING, "bpffs", "loxilb down"),
    "forwarding off": (
        survey(daemon=True, forwarding={"IPv4": False}),
        Level.PROBLEM,
        "IPv4 forwarding",
        "sysctl -w net.ipv4.ip_forward=1",
    ),
    "pins that end": (survey(bpffs_ends=True), Level.WARNING, "bpffs", "--netns"),
    "no IPv6": (survey(ipv6_off=True), Level.WARNING, "IPv6", "disable_ipv6=0"),
    "strict": (
        survey(devices=(device(rp_filter=1), device("eth1", index=3, rp_filter=1))),
        Level.WARNING,
        "rp_filter",
        "rp_filter=2",
    ),
    "other xdp": (survey(devices=(device(foreign_xdp="guard"),)), Level.WARNING, "XDP on eth0", "xdp off"),
    "large frames": (survey(devices=(device(mtu=9000),)), Level.WARNING, "XDP on eth0", "mtu 3506"),
    "xdp on veth": (survey(xdp="on", devices=(VETH,)), Level.WARNING, "XDP on veth0", "gro on"),
    "lro": (
        survey(devices=(device(offloads={"large-receive-offload": True}),)),
        Level.WARNING,
        "LRO on eth0",
        "ethtool -K eth0 lro off",
    ),
    "no gro": (
        survey(devices=(device(offloads={"generic-receive-offload": False}),)),
        Level.WARNING,
        "GRO on eth0",
        "ethtool -K eth0 gro on",
    ),
    "mtu": (
        survey(devices=(device(), device("eth1", index=3, mtu=1400))),
        Level.WARNING,
        "MTU",
        "ICMP errors",
    ),
    "mtu in a bridge": (survey(devices=BRIDGE), Level.PROBLEM, "MTU", "equal"),
    "dropping": (survey(chains=(DROPPING,)), Level.WARNING, "packet filter", "nft add rule ip filter FORWARD accept"),
    "input": (survey(chains=(replace(DROPPING, hook="input"),)), Level.WARNING, "packet filter", "11111"),
    "nat": (
        survey(chains=(Chain(table="ip nat", name="PRE", hook="prerouting", policy="accept", rewrites=True),)),
        Level.WARNING,
        "packet filter",
        "--blacklist",
    ),
    "unknown filters": (survey(chains=None), Level.WARNING, "packet filter", "nftables"),
    "legacy tables": (survey(legacy_tables=("nat",)), Level.WARNING, "packet filter", "iptables-nft"),
}


@pytest.mark.parametrize("trap", TRAPS)
def test_every_trap_is_named_with_its_remedy(trap: str) -> None:
    """And is a problem only where nothing would work."""
    facts, level, check, remedy = TRAPS[trap]

    findings = judge(facts)

    assert [one for one in findings if (one.level, one.check) == (level, check) and remedy in one.remedy], findings
    assert healthy(findings) == (level is not Level.PROBLEM)


@pytest.mark.parametrize(
    "fine",
    [
        survey(devices=(VETH,)),
        survey(devices=(device(mtu=9000),), xdp="off"),
        survey(devices=(device("lo", LinkKind.LOOPBACK, mtu=65536), device())),
        survey(devices=(device(rp_filter=1), device("eth1", index=3, rp_filter=2))),
        survey(devices=(device(), device("eth1", index=3, mtu=1400, up=False))),
        survey(bpffs=""),
        survey(chains=(replace(DROPPING, policy="accept"),)),
        survey(capabilities=frozenset({"sys_admin", "net_admin", "net_raw"})),
    ],
)
def test_what_is_no_trap_is_not_warned_of(fine: Survey) -> None:
    """A warning too many hides the next one."""
    assert {one.level for one in judge(fine)} == {Level.OK}


def test_the_report_counts_and_says_what_to_do() -> None:
    """One line a finding, its remedy below, the verdict last."""
    findings = [
        Finding(check="MTU", level=Level.WARNING, found="differs", remedy="make them equal"),
        Finding(check="bpffs", level=Level.PROBLEM, found="none", remedy="mount one"),
    ]

    assert report(findings, "text").splitlines() == [
        "warning  MTU    differs",
        "                -> make them equal",
        "PROBLEM  bpffs  none",
        "                -> mount one",
        "",
        "loxilb will not work here: 1 problem, 1 warning",
    ]
    assert report(findings, "text", colours=True).splitlines()[2] == "\x1b[31mPROBLEM\x1b[0m  bpffs  none"


NFT = {
    "nftables": [
        {"metainfo": {"version": "1.0.6"}},
        {"table": {"family": "ip", "name": "nat"}},
        {"chain": {"family": "ip", "table": "nat", "name": "PRE", "hook": "prerouting", "policy": "accept"}},
        {"chain": {"family": "ip", "table": "nat", "name": "user"}},
        {"chain": {"family": "inet", "table": "f", "name": "fwd", "hook": "forward", "policy": "drop"}},
        {"rule": {"family": "ip", "table": "nat", "chain": "PRE", "expr": [{"match": {}}, {"dnat": {"addr": "x"}}]}},
        {"rule": {"family": "inet", "table": "f", "chain": "fwd", "expr": [{"accept": None}, "text"]}},
    ]
}


def test_chains_are_read_from_what_nft_lists() -> None:
    """Those with a hook; a rule that translates marks its chain, also one of iptables."""
    pre = Chain(table="ip nat", name="PRE", hook="prerouting", policy="accept", rewrites=True)
    assert list(chains_of(NFT)) == [pre, Chain(table="inet f", name="fwd", hook="forward", policy="drop")]

    text = json.dumps(NFT).replace('{"dnat": {"addr": "x"}}', '{"xt": {"type": "target", "name": "MASQUERADE"}}')
    assert next(chains_of(json.loads(text))) == pre


def test_tables_of_legacy_are_read(tmp_path: Path) -> None:
    """Both families, each once; without the files there are none."""
    assert legacy_tables(tmp_path) == []
    (tmp_path / "net").mkdir()
    (tmp_path / "net/ip_tables_names").write_text("nat\nfilter\n")
    (tmp_path / "net/ip6_tables_names").write_text("filter\n")

    assert legacy_tables(tmp_path) == ["filter", "nat"]


def test_capabilities_are_read_bit_by_bit() -> None:
    """Bits 12, 38 and 39 of the effective set."""
    assert capabilities("CapPrm:\tffffffffffffffff\nCapEff:\t000000c000001000\n") == {"net_admin", "perfmon", "bpf"}
    assert capabilities("CapEff:\t0000000000000000\n") == frozenset()

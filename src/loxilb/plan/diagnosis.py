# SPDX-License-Identifier: Apache-2.0
"""From what a host is like to what is wrong with it: pure judgement, one function a subject."""

from collections import defaultdict
from collections.abc import Iterator

from loxilb.model import LinkKind
from loxilb.model.port import XDP_BY_DEFAULT
from loxilb.model.survey import Chain, Device, Finding, Level, Survey

MAX_XDP_MTU = 3506
"""Largest MTU that native XDP takes without multi-buffer support: a page less headroom, tail room and header."""
_NEEDED = {
    "bpf": "load programs and maps",
    "net_admin": "attach programs, hold addresses",
    "perfmon": "let programs compare pointers and read clocks",
}
_WANTED = {
    "net_raw": "announce addresses, probe by ping, reset connections that end",
    "sys_admin": "mount a BPF file system, enter a network namespace",
}
_WITHOUT = {
    "programs sock": ("--localsockpolicy will not work", "Linux 5.17 or newer has them"),
    "tcx": ("TC programs are attached by clsact instead of TCX", "Linux 6.6 or newer has TCX"),
    "xdp": ("frames are handled by TC alone", "Linux 5.9 or newer attaches XDP by links"),
    "clsact": ("only TCX is left to attach to", "enable CONFIG_NET_CLS_ACT and CONFIG_NET_SCH_INGRESS"),
    "namespace": ("attaching could not be tried without touching this host", "run it as root"),
}


def judge(survey: Survey) -> list[Finding]:
    """Return every finding, those of one subject together."""
    return [
        *_trials(survey),
        *_capabilities(survey),
        *_pins(survey),
        *_forwarding(survey),
        *_addresses(survey),
        *_reverse_paths(survey),
        *_devices(survey),
        *_sizes(survey),
        *_chains(survey),
    ]


def healthy(findings: list[Finding]) -> bool:
    """Tell whether nothing keeps the load balancer from working."""
    return not any(finding.level is Level.PROBLEM for finding in findings)


def _trials(survey: Survey) -> Iterator[Finding]:
    """What was tried; with TCX or clsact alone packets are taken, without both they are not."""
    failed = {trial.name: trial.error for trial in survey.trials if trial.error}
    for trial in survey.trials:
        if not trial.error:
            yield Finding(check=trial.name, level=Level.OK, found="works")
        elif trial.name == "kernel":
            remedy = "run Linux 5.10 or newer"
            yield Finding(check=trial.name, level=Level.PROBLEM, found=trial.error, remedy=remedy)
        elif trial.name not in _WITHOUT:
            remedy = "run as root; if it is root, report the last lines with the kernel's version"
            yield Finding(check=trial.name, level=Level.PROBLEM, found=trial.error, remedy=remedy)
        else:
            lost, remedy = _WITHOUT[trial.name]
            hopeless = trial.name in ("tcx", "clsact") and {"tcx", "clsact"} <= failed.keys()
            level = Level.PROBLEM if hopeless else Level.WARNING
            yield Finding(check=trial.name, level=level, found=f"{trial.error}: {lost}", remedy=remedy)


def _capabilities(survey: Survey) -> Iterator[Finding]:
    given = survey.capabilities
    whole = "sys_admin" in given and "net_admin" in given
    missing = [name for name in _NEEDED if name not in given and not whole]
    for name in missing:
        found = f"CAP_{name.upper()} is missing: cannot {_NEEDED[name]}"
        yield Finding(check="capabilities", level=Level.PROBLEM, found=found, remedy="run as root, or grant it")
    for name, use in _WANTED.items():
        if name not in given:
            found = f"CAP_{name.upper()} is missing: cannot {use}"
            remedy = "grant it" if name == "net_raw" else "prepare both beforehand, or grant it"
            yield Finding(check="capabilities", level=Level.WARNING, found=found, remedy=remedy)
    if not missing:
        yield Finding(check="capabilities", level=Level.OK, found="those that are needed are there")


def _pins(survey: Survey) -> Iterator[Finding]:
    if not survey.bpffs:
        able = "sys_admin" in survey.capabilities
        level = Level.OK if able else Level.PROBLEM
        found = "none is mounted" + (", the daemon mounts one" if able else "")
        yield Finding(check="bpffs", level=level, found=found, remedy="" if able else "mount -t bpf bpf /sys/fs/bpf")
    elif not survey.bpffs_writable:
        found = f"{survey.bpffs} may not be written"
        remedy = f"mkdir {survey.bpffs}/loxilb, and give it to the user of the daemon"
        yield Finding(check="bpffs", level=Level.PROBLEM, found=found, remedy=remedy)
    else:
        yield Finding(check="bpffs", level=Level.OK, found=survey.bpffs)
    if survey.bpffs_ends:
        found = "this mount namespace has one of its own (ip netns exec makes it): forwarding ends with the daemon"
        yield Finding(check="bpffs", level=Level.WARNING, found=found, remedy="loxilb --netns NAME, also for doctor")
    for version in survey.other_abi:
        found = f"maps of another release are pinned ({version})"
        remedy = "loxilb down removes them, and with them their connections"
        yield Finding(check="bpffs", level=Level.WARNING, found=found, remedy=remedy)


def _forwarding(survey: Survey) -> Iterator[Finding]:
    """Without forwarding the FIB gives no next hop (bpf_fib_lookup); the daemon switches it on."""
    for family, on in survey.forwarding.items():
        found = "on" if on else "off, the daemon switches it on"
        yield Finding(check=f"{family} forwarding", level=Level.OK, found=found)
        if not on and survey.daemon:
            found = "off while a daemon runs: packets find no next hop"
            name = "net.ipv4.ip_forward" if family == "IPv4" else "net.ipv6.conf.all.forwarding"
            remedy = f"sysctl -w {name}=1, and find out who switches it off"
            yield Finding(check=f"{family} forwarding", level=Level.PROBLEM, found=found, remedy=remedy)


def _addresses(survey: Survey) -> Iterator[Finding]:
    if survey.ipv6_off:
        found = "switched off on the loopback: addresses of IPv6 services cannot be held"
        remedy = "sysctl -w net.ipv6.conf.lo.disable_ipv6=0, unless there are to be none"
        yield Finding(check="IPv6", level=Level.WARNING, found=found, remedy=remedy)


def _reverse_paths(survey: Survey) -> Iterator[Finding]:
    strict = [one.port.name for one in survey.devices if one.rp_filter == 1 and one.port.kind is not LinkKind.LOOPBACK]
    if len(strict) < 2:
        yield Finding(check="rp_filter", level=Level.OK, found="does not judge by interface")
        return
    found = f"strict on {', '.join(strict)}: what comes in where its answer would not go out is dropped by the kernel"
    remedy = "where routes are not symmetric: sysctl -w net.ipv4.conf.all.rp_filter=2"
    yield Finding(check="rp_filter", level=Level.WARNING, found=found, remedy=remedy)


def _devices(survey: Survey) -> Iterator[Finding]:
    before = 0
    for device in survey.devices:
        for finding in (*_xdp(device, survey.xdp), *_offloads(device)):
            before += 1
            yield finding
    if not before:
        found = f"nothing in the way on {len(survey.devices)} interfaces"
        yield Finding(check="interfaces", level=Level.OK, found=found)


def _xdp(device: Device, policy: str) -> Iterator[Finding]:
    port, check = device.port, f"XDP on {device.port.name}"
    in_front = policy == "on" or (policy == "auto" and port.kind in XDP_BY_DEFAULT)
    if policy == "off" or not in_front or port.kind is LinkKind.LOOPBACK:
        return
    if device.foreign_xdp:
        found = f"the program {device.foreign_xdp} is attached: TC alone serves the interface"
        remedy = "ip link set dev " + port.name + " xdp off, or --xdp off"
        yield Finding(check=check, level=Level.WARNING, found=found, remedy=remedy)
    if port.mtu > MAX_XDP_MTU:
        found = f"MTU {port.mtu} is above {MAX_XDP_MTU}: TC alone serves the interface"
        remedy = f"ip link set dev {port.name} mtu {MAX_XDP_MTU}, or leave it to TC"
        yield Finding(check=check, level=Level.WARNING, found=found, remedy=remedy)
    if port.kind is LinkKind.VETH:
        found = (
            "a veth passes on what XDP sends to it only where its other end has GRO or an XDP program of its own, and "
            "its other end loses segmentation offload"
        )
        remedy = f"ethtool -K DEVICE gro on at the other end of {port.name}, or --xdp auto"
        yield Finding(check=check, level=Level.WARNING, found=found, remedy=remedy)


def _offloads(device: Device) -> Iterator[Finding]:
    port = device.port
    if device.offloads.get("large-receive-offload"):
        found = "packets are merged beyond recognition on their way in"
        remedy = f"ethtool -K {port.name} lro off"
        yield Finding(check=f"LRO on {port.name}", level=Level.WARNING, found=found, remedy=remedy)
    if port.kind is LinkKind.PHYSICAL and device.offloads.get("generic-receive-offload") is False:
        found = "off: TC sees every segment of a bulk transfer by itself"
        remedy = f"ethtool -K {port.name} gro on"
        yield Finding(check=f"GRO on {port.name}", level=Level.WARNING, found=found, remedy=remedy)


def _sizes(survey: Survey) -> Iterator[Finding]:
    """Different MTUs cost ICMP errors, which a host behind a filter never sees; inside a bridge frames just vanish."""
    by_mtu, bridged = defaultdict(list), defaultdict(set)
    for port in (device.port for device in survey.devices):
        if port.kind is not LinkKind.LOOPBACK and port.up:
            by_mtu[port.mtu].append(port.name)
            if port.master:
                bridged[port.master].add(port.mtu)
    if len(by_mtu) < 2:
        yield Finding(check="MTU", level=Level.OK, found="the same on every interface that is up")
        return
    groups = "; ".join(f"{mtu} on {', '.join(names)}" for mtu, names in sorted(by_mtu.items()))
    remedy = "make them equal, or see that ICMP errors reach clients and endpoints"
    yield Finding(check="MTU", level=Level.WARNING, found=f"differs: {groups}", remedy=remedy)
    names = {device.port.index: device.port.name for device in survey.devices}
    for master, sizes in bridged.items():
        if len(sizes) > 1:
            found = f"ports of {names.get(master, master)} differ: larger frames vanish between them"
            yield Finding(check="MTU", level=Level.PROBLEM, found=found, remedy="make them equal")


def _chains(survey: Survey) -> Iterator[Finding]:
    if survey.chains is None:
        remedy = "install nftables to have them looked at"
        yield Finding(check="packet filter", level=Level.WARNING, found="rules could not be listed", remedy=remedy)
        return
    findings = [finding for chain in survey.chains for finding in _chain(chain)]
    for table in survey.legacy_tables:
        found = f"table {table} of iptables-legacy is in use, and was not looked at"
        findings.append(Finding(check="packet filter", level=Level.WARNING, found=found, remedy="use iptables-nft"))
    ok = Finding(check="packet filter", level=Level.OK, found="no rule in the way")
    yield from findings or (ok,)


def _chain(chain: Chain) -> Iterator[Finding]:
    """Packets that the data plane forwards pass no filter; those it leaves to the kernel do, first ones above all."""
    name = f"{chain.table} {chain.name}"
    if chain.hook == "forward" and chain.policy == "drop":
        found = f"{name} drops what it does not accept: packets that wait for a neighbour's address go through it"
        remedy = f"nft add rule {name} accept, for clients and endpoints of the services"
        yield Finding(check="packet filter", level=Level.WARNING, found=found, remedy=remedy)
    if chain.hook == "input" and chain.policy == "drop":
        found = f"{name} drops what it does not accept: the API and answers to probes need to be"
        remedy = f"nft add rule {name} tcp dport 11111 accept"
        yield Finding(check="packet filter", level=Level.WARNING, found=found, remedy=remedy)
    if chain.rewrites and chain.hook in ("prerouting", "postrouting"):
        found = f"{name} translates addresses: services take packets before it, and theirs never come by"
        remedy = "keep addresses of services out of it, or leave the interface out with --blacklist"
        yield Finding(check="packet filter", level=Level.WARNING, found=found, remedy=remedy)

# SPDX-License-Identifier: Apache-2.0
"""The whole survey of a host, in the calling thread's network namespace."""

import os
from pathlib import Path

from loxilb.kernel import abi
from loxilb.kernel.bpf import pins
from loxilb.kernel.bpf.outlive import ends_with_us
from loxilb.kernel.survey.devices import devices
from loxilb.kernel.survey.filters import chains, legacy_tables
from loxilb.kernel.survey.trials import try_all
from loxilb.model.survey import Survey

_SELF = Path("/proc/thread-self")
_CAPABILITIES = {"net_admin": 12, "net_raw": 13, "sys_admin": 21, "perfmon": 38, "bpf": 39}  # linux/capability.h
_IPV6_OFF = Path("/proc/sys/net/ipv6/conf/lo/disable_ipv6")
_FORWARDING = {"IPv4": "net/ipv4/ip_forward", "IPv6": "net/ipv6/conf/all/forwarding"}


def gather(bpffs: Path | None, xdp: str) -> Survey:
    """Look at everything; nothing is mounted, pinned or attached where anybody could notice.

    Raises OSError, and NetlinkError of pyroute2.
    """
    place = _bpffs(bpffs)
    own = f"v{abi.ABI_VERSION}"
    return Survey(
        trials=try_all(),
        capabilities=capabilities((_SELF / "status").read_text()),
        bpffs=str(place or ""),
        bpffs_writable=place is not None and os.access(_deepest(place / "loxilb"), os.W_OK),
        bpffs_ends=ends_with_us(place),
        forwarding=_forwarding(),
        ipv6_off=_IPV6_OFF.exists() and _IPV6_OFF.read_text().strip() != "0",
        devices=devices(),
        chains=chains(),
        legacy_tables=legacy_tables(),
        other_abi=[root.name for root in pins.existing(bpffs) if root.name != own],
        daemon=" @loxilb\n" in (_SELF / "net/unix").read_text(),
        xdp=xdp,
    )


def capabilities(status: str) -> frozenset[str]:
    """Return those that are in force, of the ones asked about, from the text of ``/proc/PID/status``."""
    (word,) = (line.split()[1] for line in status.splitlines() if line.startswith("CapEff:"))
    return frozenset(name for name, bit in _CAPABILITIES.items() if int(word, 16) >> bit & 1)


def _bpffs(wanted: Path | None) -> Path | None:
    mounted = pins.mount_points()
    places = (wanted,) if wanted is not None else pins.PLACES
    return next((place for place in places if place in mounted or mounted & set(place.parents)), None)


def _deepest(path: Path) -> Path:
    """Return the part of a path that is there already."""
    return next(one for one in (path, *path.parents) if one.exists())


def _forwarding() -> dict[str, bool]:
    paths = {family: Path("/proc/sys") / name for family, name in _FORWARDING.items()}
    return {family: path.read_text().strip() != "0" for family, path in paths.items() if path.exists()}

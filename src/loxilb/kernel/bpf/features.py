# SPDX-License-Identifier: Apache-2.0
"""Which programs the kernel can run: found out by trying, never from its version, before anything is made."""

import errno
from collections.abc import Mapping
from enum import Enum

from loxilb.errors import FeatureMissing
from loxilb.kernel.bpf import libbpf

_TC = 3  # BPF_PROG_TYPE_SCHED_CLS
NEEDED: Mapping[str, int] = {"bpf_for_each_map_elem": 164, "bpf_timer_init": 169, "bpf_loop": 181}
"""What the programs stand on: functions of the kernel by enum bpf_func_id (linux/bpf.h); the youngest is of Linux 5.17.

Who has them also has atomic operations that return a value (5.12), which the flow tables stand on.
"""
LEGACY_NEEDED: Mapping[str, int] = {"bpf_jiffies64": 118, "bpf_ringbuf_output": 130, "bpf_redirect_peer": 155}
"""The same for the legacy build of the programs; the youngest is of Linux 5.10."""


class ProgramSet(Enum):
    """A build of the programs."""

    CURRENT = "current"
    LEGACY = "legacy"
    """For kernels without what :data:`NEEDED` names: slower, aged by the daemon, and without those for sockets."""


def missing(needed: Mapping[str, int]) -> list[str]:
    """Return those functions that the verifier does not know.

    Each is tried with a program that does nothing but call it; without the right to load programs none is missing.
    """
    return [name for name, number in needed.items() if libbpf.probe_helper(_TC, number, None) == 0]


def choose() -> ProgramSet:
    """Return the best programs that the kernel can run; raises FeatureMissing where it can run neither."""
    if not missing(NEEDED):
        return ProgramSet.CURRENT
    lacking = missing(LEGACY_NEEDED)
    if lacking:
        detail = f"this kernel has no {', '.join(lacking)}"
        raise FeatureMissing("load the programs", errno.ENOTSUP, detail=detail, remedy="run Linux 5.10 or newer")
    return ProgramSet.LEGACY

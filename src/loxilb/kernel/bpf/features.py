# SPDX-License-Identifier: Apache-2.0
"""What the programs cannot do without, looked for before anything is made."""

import errno
from collections.abc import Mapping

from loxilb.errors import FeatureMissing
from loxilb.kernel.bpf import libbpf

_TC = 3  # BPF_PROG_TYPE_SCHED_CLS
NEEDED: Mapping[str, int] = {"bpf_for_each_map_elem": 164, "bpf_timer_init": 169, "bpf_loop": 181}
"""Functions of the kernel by enum bpf_func_id (linux/bpf.h); the youngest is of Linux 5.17.

Who has them also has atomic operations that return a value (5.12), which the flow tables stand on.
"""


def missing(needed: Mapping[str, int] = NEEDED) -> list[str]:
    """Return those functions that the verifier does not know.

    Each is tried with a program that does nothing but call it; without the right to load programs none is missing.
    """
    return [name for name, number in needed.items() if libbpf.probe_helper(_TC, number, None) == 0]


def require(needed: Mapping[str, int] = NEEDED) -> None:
    """Raise FeatureMissing where the kernel lacks a function."""
    lacking = missing(needed)
    if lacking:
        detail = f"this kernel has no {', '.join(lacking)}"
        raise FeatureMissing("load the programs", errno.ENOTSUP, detail=detail, remedy="run Linux 5.17 or newer")

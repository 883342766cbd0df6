# SPDX-License-Identifier: Apache-2.0
"""The data plane in the kernel: loading, attaching, programming and reading it.

Belongs here: every use of bpf(2). Stands on libbpf through ctypes; the programs are built from ``bpf/``.
"""

from loxilb.kernel.bpf.dataplane import BpfDataPlane
from loxilb.kernel.bpf.removal import Removed, remove_data_plane
from loxilb.kernel.bpf.settings import DEFAULT_TIMEOUTS, DataPlaneSettings, XdpPolicy

__all__ = ["DEFAULT_TIMEOUTS", "BpfDataPlane", "DataPlaneSettings", "Removed", "XdpPolicy", "remove_data_plane"]

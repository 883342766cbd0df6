# SPDX-License-Identifier: Apache-2.0
"""What was measured on."""

import os
import platform
from pathlib import Path


def machine() -> dict[str, str]:
    """Return processor, how many of it, and kernel."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return {"cpu": next(models, platform.machine()), "processors": str(os.cpu_count()), "kernel": platform.release()}

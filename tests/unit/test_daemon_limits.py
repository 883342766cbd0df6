# SPDX-License-Identifier: Apache-2.0
"""The daemon may have as many descriptors as its process: there can be thousands of interfaces."""

import subprocess
import sys

_PROGRAM = """
import resource
from loxilb.kernel.limits import raise_descriptors
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 128))
assert raise_descriptors() == 128
assert resource.getrlimit(resource.RLIMIT_NOFILE) == (128, 128)
"""


def test_the_soft_limit_becomes_the_hard_one():
    """In a process of its own, as it cannot be taken back."""
    assert subprocess.run([sys.executable, "-c", _PROGRAM], check=False).returncode == 0

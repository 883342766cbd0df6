# SPDX-License-Identifier: Apache-2.0
"""What a daemon loads, for as long as nobody asks for more."""

import subprocess
import sys

_PROGRAM = "import sys, loxilb.__main__, loxilb.app; sys.exit('numpy' in sys.modules)"


def test_numpy_is_loaded_only_for_those_who_list_flows():
    """It takes 13 MiB, and a tenth of a second of each start."""
    assert subprocess.run([sys.executable, "-c", _PROGRAM], check=False).returncode == 0

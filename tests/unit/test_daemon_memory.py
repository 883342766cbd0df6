# SPDX-License-Identifier: Apache-2.0
"""What a daemon loads, for as long as nobody asks for more."""

import subprocess
import sys

import pytest

_PROGRAM = "import sys, loxilb.cli, loxilb.app; sys.exit(sys.argv[1] in sys.modules)"


@pytest.mark.parametrize("module", ["numpy", "yaml", "loxilb.kernel.survey"])
def test_what_few_ask_for_is_not_loaded_by_a_start(module):
    """Numpy, for lists of flows, takes 13 MiB and a tenth of a second; a file's YAML and the doctor's survey some."""
    assert subprocess.run([sys.executable, "-c", _PROGRAM, module], check=False).returncode == 0

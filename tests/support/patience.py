# SPDX-License-Identifier: Apache-2.0
"""How much longer everything may take here than on a usual machine; emulated ones are told so."""

import os

SLOWER = float(os.environ.get("LOXILB_SLOWER", "1"))

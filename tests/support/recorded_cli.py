# SPDX-License-Identifier: Apache-2.0
"""Tables of the original command line, as recorded.

The wide table of rules holds the recorded rules up to 20.20.20.4, and one more that is as wide in its sources and its
state as those that were recorded after them.
"""

from pathlib import Path

_FOLDER = Path(__file__).parent / "recorded"


def _table(name: str) -> str:
    return (_FOLDER / f"{name}.txt").read_text()


LB = _table("lb")
LB_WIDE = _table("lb-wide")
CT = _table("ct")
VERSION = _table("lbversion")
PORT = _table("port")
IP = _table("ip")
ENDPOINTS = _table("ep")
FIREWALL = _table("fw")

# SPDX-License-Identifier: Apache-2.0
"""How long a table of selection hash takes.

``python -m bench.tables`` prints milliseconds of processor time by the number of endpoints.
"""

import time
from ipaddress import IPv4Address

from loxilb.model import Endpoint
from loxilb.plan.maglev import maglev_table
from loxilb.plan.selection import identities

_SIZES = (3, 100, 327, 328, 500, 1000, 4096)
_ROUNDS = 9


def milliseconds(members: int) -> float:
    """Return the least time of several tables."""
    names = identities([Endpoint(address=IPv4Address("10.1.0.0") + one, port=80) for one in range(members)])
    times = []
    for _ in range(_ROUNDS):
        began = time.process_time()
        maglev_table(names)
        times.append(time.process_time() - began)
    return min(times) * 1e3


if __name__ == "__main__":
    for size in _SIZES:
        print(f"{size:5} endpoints {milliseconds(size):6.1f} ms")

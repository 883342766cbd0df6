# SPDX-License-Identifier: Apache-2.0
"""Short grace periods of RCU, while programs are attached to very many interfaces.

Each time a program is attached by TCX the kernel waits for a grace period, some ten milliseconds, with the lock that
all network configuration needs. With ``/sys/kernel/rcu_expedited`` it asks the processors instead of waiting for them,
which takes microseconds (Documentation/RCU of the kernel, "expedited").
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_SWITCH = Path("/sys/kernel/rcu_expedited")


@contextmanager
def short_grace_periods() -> Iterator[None]:
    """Have grace periods expedited meanwhile, where this process may; elsewhere things take their time."""
    switched = _switch("0", "1")
    try:
        yield
    finally:
        if switched:
            _switch("1", "0")


def _switch(before: str, after: str) -> bool:
    try:
        if _SWITCH.read_text().strip() != before:
            return False
        _SWITCH.write_text(after)
    except OSError:  # no such file, read-only (in a container), or not root
        return False
    return True

# SPDX-License-Identifier: Apache-2.0
"""How long to wait before something that failed is tried again."""

FIRST_S = 0.1
LIMIT_S = 30.0
_MOST_DOUBLINGS = 10


def pause_after(failures: int, chance: float) -> float:
    """Return the seconds to wait after so many failures in a row, 1 or more: twice as long each time, up to a limit.

    ``chance`` is within 0 to 1 and takes up to half of it off, so that what failed together is not tried again at
    once.
    """
    whole: float = min(LIMIT_S, FIRST_S * (1 << min(failures - 1, _MOST_DOUBLINGS)))
    return whole * (1 - chance / 2)

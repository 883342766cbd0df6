# SPDX-License-Identifier: Apache-2.0
"""What a measurement is at, for who waits for it."""

import sys
import time
from collections.abc import Callable


def timed() -> Callable[[str], None]:
    """Return a function that prints on standard error, with the seconds since now."""
    began = time.monotonic()

    def say(what: str) -> None:
        print(f"[{time.monotonic() - began:4.0f} s] {what}", file=sys.stderr, flush=True)

    return say

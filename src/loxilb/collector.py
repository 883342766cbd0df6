# SPDX-License-Identifier: Apache-2.0
"""Work on very many objects at once."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

_MANY = 1000  # fewer are made before the collector looks


@contextmanager
def without_collector(count: int = _MANY) -> Iterator[None]:
    """Keep the cyclic garbage collector out of the way of a body that makes objects to stay.

    It would look at all of them again and again while they are made. Afterwards they count as permanent, so that later
    passes, which stop every thread, are over what came since. What is no part of a cycle is freed all the same; cycles
    that nobody holds are, before: they would be permanent, too. Whoever has switched it off has seen to that. Nothing
    stays of a body that raises.
    """
    if count < _MANY:
        yield
        return
    was_enabled = gc.isenabled()
    if was_enabled:
        gc.collect()
    gc.disable()
    try:
        yield
        gc.freeze()
    finally:
        if was_enabled:
            gc.enable()

# SPDX-License-Identifier: Apache-2.0
"""One program at a time works on the data plane of a network namespace."""

import errno
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from loxilb.errors import KernelError

_NAME = "\0loxilb"
"""Abstract socket names belong to the network namespace (unix(7), network_namespaces(7)) and end with the process."""


@contextmanager
def claim_namespace() -> Iterator[None]:
    """Keep the calling thread's network namespace for this process; raises KernelError where another has it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as held:
        try:
            held.bind(_NAME)
        except OSError as error:
            raise KernelError(
                "take over the network namespace",
                error.errno or errno.EIO,
                detail="a loxilb works in it",
                remedy="stop that one first",
            ) from error
        yield

# SPDX-License-Identifier: Apache-2.0
"""The program for replies of this host, attached only while an endpoint is on it.

Everywhere and always it would be run a second time for each packet that the ingress program sends.
"""

import errno
from collections.abc import Callable

from loxilb.errors import KernelError
from loxilb.kernel.bpf import attach, pins


class EgressHooks:
    """The egress side of the interfaces that are taken."""

    def __init__(self, directory: pins.PinDirectory, program: Callable[[], int]) -> None:
        """Start without interfaces, not wanted; ``program`` loads the program when it is first needed."""
        self._directory = directory
        self._program = program
        self._taken: set[int] = set()
        self._wanted = False

    @property
    def wanted(self) -> bool:
        """Whether it is attached to the interfaces that are taken."""
        return self._wanted

    def take(self, index: int) -> None:
        """Bring one more interface in line, also with what an earlier daemon left; raises KernelError."""
        self._taken.add(index)
        self._bring_in_line(index)

    def leave(self, index: int) -> None:
        """Forget an interface, which is detached already."""
        self._taken.discard(index)

    def want(self, wanted: bool) -> None:
        """Attach to every interface, or detach from all. Raises KernelError; then it is attached to none."""
        if wanted == self._wanted:
            return
        self._wanted = wanted
        try:
            for index in sorted(self._taken):
                self._bring_in_line(index)
        except KernelError:
            self._wanted = False
            for index in sorted(self._taken):
                attach.detach_egress(self._directory, index)
            raise

    def _bring_in_line(self, index: int) -> None:
        if not self._wanted:
            attach.detach_egress(self._directory, index)
            return
        try:
            attach.attach_egress(self._directory, index, self._program())
        except KernelError as error:
            if error.errno != errno.ENODEV:  # gone meanwhile, which an event will tell
                raise

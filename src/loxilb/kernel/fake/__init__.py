# SPDX-License-Identifier: Apache-2.0
"""A kernel in memory: carries operations out and answers questions about the result.

Belongs here: implementations of the ports that behave like the kernel, for tests of everything above. Does
not belong here: I/O, and shortcuts that the kernel would not allow.
"""

from loxilb.kernel.fake.data_plane import FakeDataPlane
from loxilb.kernel.fake.host import FakeLinks, FakeNetwork, FakeVipHost

__all__ = ["FakeDataPlane", "FakeLinks", "FakeNetwork", "FakeVipHost"]

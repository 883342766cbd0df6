# SPDX-License-Identifier: Apache-2.0
"""Limits of the process."""

import resource


def raise_descriptors() -> int:
    """Allow as many descriptors as the process may have, and return how many: each attached program takes one."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return most

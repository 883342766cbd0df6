# SPDX-License-Identifier: Apache-2.0
"""Holds the desired services and brings the kernel in line with them.

Belongs here: what each write means, its order in the kernel, its undoing. Does not belong here: wire formats,
how the kernel is programmed.
"""

from loxilb.services.config.service import ConfigurationService

__all__ = ["ConfigurationService"]

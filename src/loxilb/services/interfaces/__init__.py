# SPDX-License-Identifier: Apache-2.0
"""Keeps the data plane attached to the interfaces that it is to work on.

Belongs here: which interfaces those are, and following them while they come and go. Does not belong here:
hooks and programs, which are the data plane's.
"""

from loxilb.services.interfaces.filter import InterfaceFilter
from loxilb.services.interfaces.interfaces import Attachable, Interfaces

__all__ = ["Attachable", "InterfaceFilter", "Interfaces"]

# SPDX-License-Identifier: Apache-2.0
"""Shows dropped packets to those who watch.

Belongs here: who watches, and that the data plane reports only meanwhile. Does not belong here: which drops are
reported (``bpf/drop.h``), their form on the wire (``codec/packets.py``).
"""

from loxilb.services.drops.drops import DropReporter, DropWatch

__all__ = ["DropReporter", "DropWatch"]

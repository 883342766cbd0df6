# SPDX-License-Identifier: Apache-2.0
"""Tells both ends of connections that the data plane gave up.

Belongs here: which reports still count, and sending what ends a connection. Does not belong here: when a connection is
given up (``bpf/ager.h``), and what the segments look like (``proto/reset.py``).
"""

from loxilb.services.resets.resets import AbortReporter, PacketSender, Resets
from loxilb.services.resets.sockets import RawSockets

__all__ = ["AbortReporter", "PacketSender", "RawSockets", "Resets"]

# SPDX-License-Identifier: Apache-2.0
"""What becomes of a packet: one that is made up, run through the programs.

Belongs here: by which interface such a packet comes, and whose service it meets. Does not belong here: running it
(``kernel/bpf/tracing.py``), its form on the wire (``codec/packets.py``).
"""

from loxilb.services.trace.trace import PacketTracer, TraceService, Ways

__all__ = ["PacketTracer", "TraceService", "Ways"]

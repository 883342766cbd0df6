# SPDX-License-Identifier: Apache-2.0
"""The pure parts of probing: verdict and pace, echo packets, HTTP.

Belongs here: bytes in, bytes out, decisions with the time as an argument. Does not belong here: sockets, clocks.
"""

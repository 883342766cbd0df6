# SPDX-License-Identifier: Apache-2.0
"""``loxicmd``: the command line over ``loxiapi``.

Belongs here: grammar, cells and tables. Does not belong here: any knowledge of load balancing beyond the wire
types. A call must stay under 200 ms in all, so commands import what they need when they run.
"""

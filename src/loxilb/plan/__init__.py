# SPDX-License-Identifier: Apache-2.0
"""Decides, and does nothing: desired services and what is programmed become operations.

Belongs here: planning, selection tables, free ids and slots. Does not belong here: I/O, clocks, threads;
carrying the operations out is the kernel's side.
"""

from loxilb.plan.audit import Findings, audit, repair
from loxilb.plan.backoff import pause_after
from loxilb.plan.creation import Health
from loxilb.plan.draft import Plan
from loxilb.plan.drift import Drift, drift_of
from loxilb.plan.health import checks_of, is_probed
from loxilb.plan.ledger import Ledger
from loxilb.plan.planner import plan
from loxilb.plan.pools import Limits
from loxilb.plan.programmed import Programmed, listeners_of
from loxilb.plan.recover import adopt, found_down, recover
from loxilb.plan.selection import all_in_rule_order, in_address_order, in_rule_order
from loxilb.plan.stay import POLL_S, Phase, deadline
from loxilb.plan.summary import summary
from loxilb.plan.support import check_supported

__all__ = [
    "POLL_S",
    "Drift",
    "Findings",
    "Health",
    "Ledger",
    "Limits",
    "Phase",
    "Plan",
    "Programmed",
    "adopt",
    "all_in_rule_order",
    "audit",
    "check_supported",
    "checks_of",
    "deadline",
    "drift_of",
    "found_down",
    "in_address_order",
    "in_rule_order",
    "is_probed",
    "listeners_of",
    "pause_after",
    "plan",
    "recover",
    "repair",
    "summary",
]

# SPDX-License-Identifier: Apache-2.0
"""Logs flows as the data plane opens and ends them, for as long as somebody wants to see them.

Belongs here: when the data plane reports flows, and what a log line says of one. Does not belong here: how a report
gets out of the kernel, and log levels.
"""

from loxilb.services.flowlog.flowlog import FlowLog, FlowReporter

__all__ = ["FlowLog", "FlowReporter"]

# SPDX-License-Identifier: Apache-2.0
"""Metrics: what Prometheus scrapes.

Belongs here: gathering what is counted elsewhere, keeping totals that outlive endpoints, names and labels. Does not
belong here: counting (the data plane does), the text format (``loxilb.proto.metrics``), serving it (the API).
"""

from loxilb.services.metrics.families import Latencies
from loxilb.services.metrics.service import Health, MetricsService

__all__ = ["Health", "Latencies", "MetricsService"]

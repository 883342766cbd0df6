# SPDX-License-Identifier: Apache-2.0
"""Finds out which endpoints are well, and says so.

Belongs here: when to probe, the sockets of probes, which endpoints are known. Does not belong here: the verdict
(``loxilb.proto.probe``), what a verdict does to services (the configuration service).
"""

from loxilb.services.health.probes import Outcome, Prober, Probes
from loxilb.services.health.service import HealthService

__all__ = ["HealthService", "Outcome", "Prober", "Probes"]

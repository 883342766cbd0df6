# SPDX-License-Identifier: Apache-2.0
"""The REST API: HTTP in, calls of ``loxilb.ports.Configuration`` and ``Endpoints`` out.

Belongs here: serving, routing, and the conversion between wire types and the model. Does not belong here:
what the wire looks like (``loxiapi``), what a request does (the configuration service).
"""

from loxilb.services.api.handlers import BuildInfo, LogLevel
from loxilb.services.api.server import ApiServer

__all__ = ["ApiServer", "BuildInfo", "LogLevel"]

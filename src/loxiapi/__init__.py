# SPDX-License-Identifier: Apache-2.0
"""The REST contract: wire types, their decoder, the operations, the OpenAPI document and one small client.

Belongs here: everything that daemon, command line and operator must agree on. Does not belong here: what a
service means (``loxilb.model``), HTTP serving (``loxilb.services.api``). Imports stay cheap, as every command
line call pays for them: the client needs ``loxiapi.wire`` and ``loxiapi.client`` only.
"""

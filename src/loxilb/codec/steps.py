# SPDX-License-Identifier: Apache-2.0
"""Which step of the data plane decides about a packet, in words: the reason says which.

``docs/operations.md`` says what each reason means, and what to do about it.
"""

from loxilb.model.trace import HookTrace, Table, Verdict

_PLAIN = "plain path: flow found in the large table"
_STEPS = {
    "pass_not_ip": "headers: not IP",
    "pass_other_host": "headers: addressed to another host",
    "pass_malformed": "headers: malformed",
    "pass_fragment": "fragments: of no flow",
    "pass_protocol": "headers: a protocol that is not served",
    "pass_not_service": "listeners: no flow, and no service at this address and port",
    "pass_to_tc": "slow path: left to TC",
    "pass_icmp_error": "ICMP errors: about no flow",
    "forward_new": "slow path: service found, endpoint chosen, flow opened",
    "forward_local": "{where}; the endpoint is this host, or it has to be fragmented: handed to the stack",
    "forward_loopback": "{where}; has to be fragmented: handed to the stack by way of the loopback",
    "forward_resolve": "{where}; neighbour not resolved, handed to the stack",
    "drop_ttl": "TTL: this was its last hop",
    "drop_no_endpoint": "choice of an endpoint: none is live",
    "drop_no_source": "source address: none is known towards the endpoint",
    "drop_no_port": "source port: all that were tried are taken",
    "drop_table_full": "flow table: no room",
    "drop_busy": "flow table: another processor works on it",
    "drop_flow_moved": "flow table: the flow has moved",
    "drop_no_route": "FIB: no way to the address",
    "drop_black_hole": "FIB: the way to the address is a black hole",
    "drop_not_syn": "{where}; the packet may not open one",
    "drop_write": "rewriting: the packet could not be written",
    "drop_source": "allowed sources: the client is not among them",
    "drop_rst": "TCP numbers: the reset does not fit the connection",
    "drop_fragment": "fragments: before its first one, over it, or too short",
    "drop_rate": "ICMP error: this address has had its share",
    "drop_too_big": "MTU: larger than the next link",
    "drop_martian": "source address: one that no host has",
    "drop_half_open": "limit of half-open flows: reached",
    "drop_loop": "services behind services: too many, or a circle",
}
DROP_REASONS = tuple(reason for reason in _STEPS if reason.startswith("drop_"))
"""The reasons to drop a packet."""
_FOUND = {
    None: "slow path: no flow",
    Table.LARGE: "slow path: flow found in the large table",
    Table.OVERFLOW: "slow path: flow found in the overflow map of the large table",
    Table.HALF_OPEN: "slow path: flow found in the half-open table",
}
_ANSWERS = {
    "answer_reset": "a TCP reset",
    "answer_unreachable": "ICMP port unreachable",
    "answer_too_big": "ICMP packet too big",
    "answer_expired": "ICMP time exceeded",
}


def step_of(hook: HookTrace, table: Table | None) -> str:
    """Say which step decided at a hook; ``table`` is where the packet's flow was."""
    if hook.verdict is Verdict.ANSWERED:
        return f"{_said(hook.cause, table)}; answered by {_ANSWERS[hook.reason]}"
    return _PLAIN if hook.plain else _said(hook.reason, table)


def _said(reason: str, table: Table | None) -> str:
    return _STEPS.get(reason, "{where}").format(where=_FOUND[table])

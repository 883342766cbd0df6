# SPDX-License-Identifier: Apache-2.0
"""The words of the contract for flows, and what the parameters of a list of flows mean."""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping
from ipaddress import ip_network
from struct import Struct, error
from typing import Any

from loxiapi.wire import CONNTRACK_STATES
from loxilb.codec.rules import address_of
from loxilb.errors import InvalidRequest
from loxilb.model import FlowState, IPAddress, IPNetwork, L4Protocol, Mode
from loxilb.model.flow_list import FlowKey, FlowQuery
from loxilb.model.service import PROTOCOLS

MOST_FLOWS = 100_000
"""Flows on a page at most."""
_WRONG = "malformed-args error"
_PROTOCOL_WORDS = {number: one.value for number, one in PROTOCOLS.items()} | {L4Protocol.ICMP.number(6): "icmp6"}

_TCP_WORDS = {
    FlowState.NONE: "closed",
    FlowState.SYN_SENT: "sync-sent",
    FlowState.SYN_RECEIVED: "sync-ack",
    FlowState.ESTABLISHED: "est",
    FlowState.CLOSING: "fini",
    FlowState.TIME_WAIT: "closed-wait",
    FlowState.RESET: "h/e",
}
_SCTP_WORDS = {
    FlowState.NONE: "closed",
    FlowState.SYN_SENT: "init",
    FlowState.SYN_RECEIVED: "init-ack",
    FlowState.ESTABLISHED: "est",
    FlowState.CLOSING: "shut",
    FlowState.TIME_WAIT: "shut-complete",
    FlowState.RESET: "abort",
}
_UDP_WORDS = {FlowState.NONE: "closed", FlowState.ONE_WAY: "udp-uni", FlowState.TWO_WAY: "udp-est"}
_ICMP_WORDS = {FlowState.NONE: "closed", FlowState.ONE_WAY: "req-sent", FlowState.TWO_WAY: "bidir"}
_WORDS_OF: Mapping[L4Protocol, Mapping[FlowState, str]] = {
    L4Protocol.TCP: _TCP_WORDS,
    L4Protocol.SCTP: _SCTP_WORDS,
    L4Protocol.UDP: _UDP_WORDS,
    L4Protocol.ICMP: _ICMP_WORDS,
}
_STATE_WORDS = {number: _WORDS_OF[one] for number, one in PROTOCOLS.items()}
_UNKNOWN = "unk"
_ONE_SIDED = {Mode.DEFAULT: ("dnat", "snat"), Mode.DSR: ("ddsr", "sdsr")}
_BOTH_SIDED = "fdnat", "fsnat"
_TOKENS = {4: Struct(">B4s4sHHB"), 6: Struct(">B16s16sHHB")}


def protocol_word(protocol: int) -> str:
    """Return the word for a protocol; its number where it has none."""
    return _PROTOCOL_WORDS.get(protocol, str(protocol))


def state_word(protocol: int, state: FlowState) -> str:
    """Return the word for a state."""
    return _STATE_WORDS.get(protocol, {}).get(state, _UNKNOWN)


def is_one_sided(mode: Mode) -> bool:
    """Tell whether one address of each direction is rewritten, and not both."""
    return mode in _ONE_SIDED


def act_word(mode: Mode, *, reply: bool) -> str:
    """Return the word for what becomes of the packets."""
    return _ONE_SIDED.get(mode, _BOTH_SIDED)[reply]


def query_of(parameters: Mapping[str, Any]) -> FlowQuery:
    """Read the parameters of a list but ``service``; raises InvalidRequest naming the one that is wrong."""
    endpoint, port = _endpoint_of(parameters["endpoint"]) if "endpoint" in parameters else (None, None)
    limit = parameters.get("limit")
    if limit is not None and not 1 <= limit <= MOST_FLOWS:
        raise InvalidRequest(_WRONG, field="limit", cause=f"{limit} is not within 1 to {MOST_FLOWS}")
    return FlowQuery(
        client=_network_of(parameters["client"]) if "client" in parameters else None,
        endpoint=endpoint,
        endpoint_port=port,
        kinds=_kinds_of(parameters.get("protocol"), parameters.get("state")),
        after=_key_of(parameters["continue"]) if "continue" in parameters else None,
        limit=limit,
    )


def _network_of(text: str) -> IPNetwork:
    try:
        return ip_network(text, strict=False)
    except ValueError:
        raise InvalidRequest(_WRONG, field="client", cause=f"{text!r} is no address or network") from None


def _endpoint_of(text: str) -> tuple[IPAddress, int | None]:
    """Read ``10.0.0.1``, ``10.0.0.1:80``, ``2001::1`` or ``[2001::1]:80``."""
    front, colon, port = text.rpartition(":")
    ported = bool(colon) and (":" not in front or front.endswith("]"))
    if ported and not (port.isdecimal() and int(port) < 1 << 16):
        raise InvalidRequest(_WRONG, field="endpoint", cause=f"{port!r} is no port")
    address = front if ported else text
    return address_of(address.removeprefix("[").removesuffix("]"), _WRONG, "endpoint"), int(port) if ported else None


def _kinds_of(protocol: str | None, state: str | None) -> frozenset[tuple[int, FlowState]] | None:
    if protocol is None and state is None:
        return None
    if state is not None and state not in CONNTRACK_STATES:
        words = ", ".join(CONNTRACK_STATES)
        raise InvalidRequest(_WRONG, field="state", cause=f"{state!r} is none of {words}")
    numbers = range(256) if protocol is None else (_protocol_of(protocol),)
    return frozenset((n, one) for n in numbers for one in FlowState if state in (None, state_word(n, one)))


def _protocol_of(text: str) -> int:
    numbers = {word: number for number, word in _PROTOCOL_WORDS.items()}
    if text in numbers:
        return numbers[text]
    if text.isdecimal() and int(text) < 256:
        return int(text)
    cause = f"{text!r} is none of {', '.join(numbers)}, and no number up to 255"
    raise InvalidRequest(_WRONG, field="protocol", cause=cause)


def token_of(key: FlowKey) -> str:
    """Return what names a place in the order of flows to clients, who need not understand it."""
    form, size = _TOKENS[key.version], 4 if key.version == 4 else 16
    addresses = (number.to_bytes(size, "big") for number in (key.destination, key.source))
    packed = form.pack(key.version, *addresses, key.destination_port, key.source_port, key.protocol)
    return urlsafe_b64encode(packed).decode().rstrip("=")


def _key_of(token: str) -> FlowKey:
    """Inverse of :func:`token_of`; raises InvalidRequest."""
    try:
        packed = urlsafe_b64decode(token + "=" * (-len(token) % 4))
        version, destination, source, *rest = _TOKENS[packed[0]].unpack(packed)
    except (ValueError, LookupError, error):
        raise InvalidRequest(_WRONG, field="continue", cause=f"{token!r} is not from an answer") from None
    return FlowKey(version, int.from_bytes(destination, "big"), int.from_bytes(source, "big"), *rest)

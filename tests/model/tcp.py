# SPDX-License-Identifier: Apache-2.0
"""A TCP connection and an exchange of datagrams, as one in the middle sees them. Pure.

RFC 9293 says what a segment does to the ends, RFC 5961 which resets and FINs count, RFC 7323 what a window means,
RFC 5382 and RFC 7857 what one in the middle makes of it, RFC 4787 what it makes of datagrams.
"""

from dataclasses import dataclass, field
from enum import Enum

from loxilb.model import FlowState
from tests.support.packets import ACK, FIN, RST, SYN, Tcp, Transport

_NUMBERS = 1 << 32
_LARGEST_SCALE = 14  # RFC 7323 section 2.3
_UNSCALED = 0xFFFF  # the largest window that can be said without scaling
_CLOSED = (FlowState.TIME_WAIT, FlowState.RESET)
_OPENING = (FlowState.SYN_SENT, FlowState.SYN_RECEIVED)


class Place(Enum):
    """Where a sequence number lies in a receiver's window (RFC 9293 section 3.10.7.4, RFC 5961 section 3.2)."""

    OUTSIDE = "outside"
    INSIDE = "inside"
    EXACT = "exact"


@dataclass(slots=True, kw_only=True)
class End:
    """What an end has said: the number it expects next, how much more it takes, and that it has finished.

    ``scale`` is None while its SYN has not been seen, or had no such option.
    """

    expects: int | None = None
    room: int = 0
    scale: int | None = None
    finished: bool = False

    def place(self, number: int) -> Place:
        """Return where a sequence number of the other end lies; an end that has said nothing takes any."""
        if self.expects is None:
            return Place.EXACT
        ahead = (number - self.expects) % _NUMBERS
        if not ahead:
            return Place.EXACT
        return Place.INSIDE if ahead <= self.room else Place.OUTSIDE

    def holds(self, number: int) -> bool:
        """Tell whether a sequence number of the other end lies in the window."""
        return self.place(number) is not Place.OUTSIDE

    def says(self, expects: int, room: int) -> None:
        """Note what it says."""
        self.expects, self.room = expects % _NUMBERS, room

    def acknowledges(self, tcp: Tcp) -> bool:
        """Tell whether its segment acknowledges what the other end may have sent, no less and no more."""
        return bool(tcp.flags & ACK) and self.holds(tcp.acknowledgement)


@dataclass(slots=True, kw_only=True)
class Connection:
    """A TCP connection. ``direct``: the server's segments take another way."""

    direct: bool = False
    state: FlowState = FlowState.SYN_SENT
    client: End = field(default_factory=End)
    server: End = field(default_factory=End)

    def opened_by(self, tcp: Tcp) -> None:
        """Take the first segment: a SYN, or one in mid-stream, whose window scale nobody knows."""
        if tcp.flags & SYN:
            self._asked(tcp)
        else:
            self.state = FlowState.ESTABLISHED
            self.client.scale = self.server.scale = _LARGEST_SCALE
            self._note(tcp, self.client)

    def takes(self, tcp: Tcp, *, reply: bool) -> bool:
        """Take a segment that follows; False: it is a blind reset, which goes no further."""
        own, other = (self.server, self.client) if reply else (self.client, self.server)
        if tcp.flags & RST:
            return self._reset(tcp, own, other)
        if self.state in _OPENING:
            believed = own.expects is None or own.acknowledges(tcp)
            self._open(tcp, own, other, reply=reply)
        else:
            believed = True
        if self.state is not FlowState.SYN_SENT:
            self._finish(tcp, own, other)
        if believed and tcp.flags & ACK:
            self._note(tcp, own)
        return True

    @property
    def closed(self) -> bool:
        """Tell whether the connection is over and its ports may be used again."""
        return self.state in _CLOSED

    def _asked(self, tcp: Tcp) -> None:
        """A SYN: the server, if it takes it, expects what follows it, and may acknowledge the data in it (RFC 7413)."""
        self.client.scale = _scale(tcp)
        if not self.direct:
            self.server.says(tcp.sequence + 1, len(tcp.payload))

    def _reset(self, tcp: Tcp, own: End, other: End) -> bool:
        """A reset ends the connection if it is the very next segment; one ahead of that the receiver challenges."""
        if self.state is FlowState.SYN_SENT and own is self.server:  # RFC 9293 section 3.10.7.3
            place = Place.EXACT if own.expects is None or own.acknowledges(tcp) else Place.OUTSIDE
        else:
            place = other.place(tcp.sequence)
        if place is Place.EXACT:
            self.state = FlowState.RESET
        return place is not Place.OUTSIDE

    def _open(self, tcp: Tcp, own: End, other: End, *, reply: bool) -> None:
        """The handshake; both ends may have begun it (RFC 9293 section 3.5, figures 6 to 8)."""
        if self.state is FlowState.SYN_SENT:
            if reply and tcp.flags & SYN and (not tcp.flags & ACK or own.expects is None or own.acknowledges(tcp)):
                self.state = FlowState.SYN_RECEIVED
                other.says(tcp.sequence + 1, _UNSCALED)
                self._agree_on_scales(tcp)
            elif not reply and tcp.flags & (SYN | ACK | FIN) == SYN:
                self._asked(tcp)
            elif self.direct and not reply and tcp.flags & (SYN | ACK) == ACK:
                self.state = FlowState.ESTABLISHED
        elif not reply and tcp.flags & (SYN | ACK) == ACK and own.acknowledges(tcp) and other.holds(tcp.sequence):
            self.state = FlowState.ESTABLISHED

    def _agree_on_scales(self, tcp: Tcp) -> None:
        """Windows are scaled if both SYNs say so (RFC 7323 section 2.2)."""
        self.server.scale = _scale(tcp)
        if self.client.scale is None or self.server.scale is None:
            self.client.scale = self.server.scale = None

    def _finish(self, tcp: Tcp, own: End, other: End) -> None:
        """A FIN counts where its own number lies in the receiver's window."""
        if tcp.flags & FIN and other.holds(tcp.sequence + bool(tcp.flags & SYN) + len(tcp.payload)):
            own.finished = True
        if self.state not in (*_OPENING, FlowState.RESET):
            finished = self.client.finished + self.server.finished
            self.state = (FlowState.ESTABLISHED, FlowState.CLOSING, FlowState.TIME_WAIT)[finished]

    def _note(self, tcp: Tcp, own: End) -> None:
        """Nobody acknowledges more than it has left room for; the window of a SYN is never scaled (RFC 7323 2.2)."""
        if own.expects is not None and (tcp.acknowledgement - own.expects) % _NUMBERS > own.room + _UNSCALED:
            return
        own.says(tcp.acknowledgement, tcp.window << (0 if tcp.flags & SYN else own.scale or 0))


@dataclass(slots=True, kw_only=True)
class Exchange:
    """Datagrams or echoes between two ends; with ``direct`` replies do not come by, so none is waited for."""

    direct: bool = False
    state: FlowState = FlowState.ONE_WAY
    closed: bool = False
    client: End = field(default_factory=End)
    server: End = field(default_factory=End)

    def opened_by(self, _: Transport) -> None:
        """Take the first one."""
        if self.direct:
            self.state = FlowState.TWO_WAY

    def takes(self, _: Transport, *, reply: bool) -> bool:
        """Take one that follows."""
        if reply:
            self.state = FlowState.TWO_WAY
        return True


def _scale(tcp: Tcp) -> int | None:
    """Return the window scale option of a SYN, None without one."""
    at = 0
    while at < len(tcp.options) and tcp.options[at]:
        if tcp.options[at] == 3:
            return min(tcp.options[at + 2], _LARGEST_SCALE)
        at += 1 if tcp.options[at] == 1 else tcp.options[at + 1]
    return None

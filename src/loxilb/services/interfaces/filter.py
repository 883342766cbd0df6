# SPDX-License-Identifier: Apache-2.0
"""Which interfaces the load balancer works on, by name."""

import re
from dataclasses import dataclass

from loxilb.errors import InvalidRequest
from loxilb.model import LinkKind, Port

_MASTERS = (LinkKind.BRIDGE, LinkKind.BOND)


@dataclass(frozen=True, slots=True, kw_only=True)
class InterfaceFilter:
    """Two regular expressions, searched for anywhere in the name; None where there is none.

    With a whitelist exactly the interfaces that match it are taken, and the blacklist does not count. Without
    one all are, except the loopback, those that match the blacklist, and ports of a bridge or bond that is taken.
    """

    whitelist: re.Pattern[str] | None = None
    blacklist: re.Pattern[str] | None = None

    @classmethod
    def of(cls, *, whitelist: str, blacklist: str) -> "InterfaceFilter":
        """Compile the texts; "" and ``none`` stand for no expression. Raises InvalidRequest."""
        return cls(whitelist=_compiled("whitelist", whitelist), blacklist=_compiled("blacklist", blacklist))

    def takes(self, port: Port, master: Port | None = None) -> bool:
        """Say whether the load balancer works on ``port``, which may be part of ``master``.

        Packets of a bridge's or bond's port come by again at the master, where their addresses are: that is the one to
        work on, unless it is left out itself.
        """
        if self.whitelist is None and master is not None and master.kind in _MASTERS and self.takes(master):
            return False
        if self.whitelist is not None:
            return self.whitelist.search(port.name) is not None
        if port.kind is LinkKind.LOOPBACK:
            return False
        return self.blacklist is None or self.blacklist.search(port.name) is None


def _compiled(name: str, text: str) -> re.Pattern[str] | None:
    if text in ("", "none"):
        return None
    try:
        return re.compile(text)
    except re.error as error:
        raise InvalidRequest(
            "malformed-args error", field=name, cause=f"{text!r} is not a regular expression: {error}"
        ) from error

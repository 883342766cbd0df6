# SPDX-License-Identifier: Apache-2.0
"""The tree of commands."""

from collections.abc import Sequence

from loxicmd.grammar import Group


def _unknown_below(words: Sequence[str]) -> str:
    return f'unknown command "[{" ".join(words)}]"for "loxicmd" \nRun "loxicmd --help" for usage.'


def _unknown(words: Sequence[str]) -> str:
    if not words:
        return "a command is needed"
    return f'unknown command "{words[0]}" for "loxicmd"\nRun \'loxicmd --help\' for usage.'


_SHARED_WORDS = (
    *("firewall", "Firewall", "fw", "firewalls"),
    *("bfd", "bfd-session"),
    *("bgpneighbor", "bgpnei", "bgpneigh"),
    *("fdb", "ip", "ipv4address", "ipv4", "ipaddress"),
    *("neighbor", "nei", "neigh", "route", "vlan", "vxlan"),
    *("mirror", "mirr", "mirrors"),
    *("policy", "pol", "policys", "pols", "polices"),
    *("session", "sessions"),
    *("sessionulcl", "ulcl", "sessionulcls", "ulcls"),
)
_MEMBER_WORDS = (
    *("vlanmember", "vlanMember", "vlan-member", "vlan_member"),
    *("vxlanpeer", "vxlanPeer", "vxlan-peer", "vxlan_peer"),
)
_GET_WORDS = ("hastate", "ha", "HAstate", "process", "Process", "processes")

_ENDPOINT_WORDS = ("endpoint", "Endpoint", "EndPoint", "ep", "endpoints")
_RULES = "loxicmd.get:rules"
_FLOWS = "loxicmd.get:flows"
_LOG_LEVEL = "loxicmd.get:log_level"
_VERSION = "loxicmd.get:server_version"

get = Group(
    "get",
    commands_at={
        **dict.fromkeys(("loadbalancer", "lb", "loadbalancers", "lbs"), _RULES),
        **dict.fromkeys(("conntrack", "ct", "conntracks", "cts"), _FLOWS),
        "port": "loxicmd.get:ports",
        **dict.fromkeys(_ENDPOINT_WORDS, "loxicmd.endpoints:show"),
        **dict.fromkeys(("lbversion", "LBversion", "LBVersion", "llbversion"), _VERSION),
        **dict.fromkeys(("log-level", "loglevel"), _LOG_LEVEL),
        **dict.fromkeys(("revisions", "revision", "rev"), "loxicmd.revisions:show"),
        "status": "loxicmd.status:show",
    },
    not_built=(*_SHARED_WORDS, *_GET_WORDS),
    rejection=_unknown_below,
    help_text="Show what the load balancer has.",
)
create = Group(
    "create",
    commands_at={
        "lb": "loxicmd.create:create_rule",
        **dict.fromkeys(_ENDPOINT_WORDS, "loxicmd.endpoints:create"),
    },
    not_built=(*_SHARED_WORDS, *_MEMBER_WORDS),
    rejection=_unknown_below,
    help_text="Create something in the load balancer.",
)
delete = Group(
    "delete",
    commands_at={
        "lb": "loxicmd.delete:delete_rule",
        **dict.fromkeys(_ENDPOINT_WORDS, "loxicmd.endpoints:delete"),
    },
    not_built=(*_SHARED_WORDS, *_MEMBER_WORDS),
    rejection=_unknown_below,
    help_text="Delete something from the load balancer.",
)
set_ = Group(
    "set",
    commands_at=dict.fromkeys(("log-level", "loglevel"), "loxicmd.settings:set_log_level"),
    not_built=("bfd", "bfd-session", "login", "logout", "refresh"),
    rejection=_unknown_below,
    help_text="Change settings of the running load balancer.",
)
root = Group(
    "loxicmd",
    commands_at={
        "get": "loxicmd.root:get",
        "create": "loxicmd.root:create",
        "delete": "loxicmd.root:delete",
        "set": "loxicmd.root:set_",
        "rollback": "loxicmd.revisions:rollback",
        "audit": "loxicmd.status:audit",
        "save": "loxicmd.saving:save",
        "apply": "loxicmd.applying:apply",
        "trace": "loxicmd.trace:trace",
        "watch": "loxicmd.watch:watch",
        "explain": "loxicmd.explain:explain",
        "version": "loxicmd.settings:version",
        "completion": "loxicmd.settings:completion",
    },
    not_built=(),
    rejection=_unknown,
    help_text="Command line of the loxilb load balancer.",
)

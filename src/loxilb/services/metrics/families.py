# SPDX-License-Identifier: Apache-2.0
"""Names and meanings: from what was gathered to families. The original's two names of a family carry the same values.

``docs/metrics.md`` lists them all; a test compares.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from loxilb.model import L4Protocol
from loxilb.model.work import ReconcilerStatus, WorkState
from loxilb.ports import Fill
from loxilb.proto.metrics import Family, Histogram, Kind, Sample, labelled
from loxilb.services.metrics.accounts import Accounts, Total

_OLD = "Deprecated name of "
_FLOW_TABLES = ("flow4", "flow6", "half4", "half6")
_PROTOCOLS = (L4Protocol.TCP, L4Protocol.UDP, L4Protocol.SCTP)
_REFUSED = (
    *("drop_no_endpoint", "drop_no_source", "drop_no_port", "drop_table_full", "drop_busy"),
    *("drop_no_route", "drop_black_hole"),
)
"""Reasons for which a flow that a client asked for did not come to be."""
_LCU_FLOWS, _LCU_RULES, _LCU_BITS = 2_160_000, 1_000, 3.6e11


@dataclass(slots=True)
class Latencies:
    """How long things take, filled by those who do them; ``probes`` by the word of their kind."""

    apply: Histogram = field(default_factory=Histogram)
    apply_failures: int = 0
    probes: dict[str, Histogram] = field(default_factory=dict)
    scrape: Histogram = field(default_factory=Histogram)

    def probed(self, kind: str, seconds: float) -> None:
        """Note how long a probe took."""
        self.probes.setdefault(kind, Histogram()).observe(seconds)


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Everything that one scrape shows; ``health`` counts probed endpoints that are up and that are not."""

    rules: int
    reasons: Mapping[str, int]
    fills: Mapping[str, Fill]
    lost_reports: int
    health: tuple[int, int]
    reconciler: ReconcilerStatus
    accounts: Accounts
    latencies: Latencies
    opened_before: int


def families(facts: Facts) -> Iterator[Family]:
    """Return every family but those of host and process."""
    yield from _flows(facts)
    yield from _configured(facts)
    yield from _processed(facts.accounts.protocols)
    yield from _by_service(facts.accounts)
    yield from _by_endpoint(facts.accounts)
    yield from _data_plane(facts)
    yield from _latencies(facts.latencies)
    yield from _reconciled(facts.reconciler)


def _gauge(name: str, about: str, samples: Sequence[Sample]) -> Family:
    return Family(name=name, kind=Kind.GAUGE, about=about, samples=samples)


def _counter(name: str, about: str, samples: Sequence[Sample]) -> Family:
    return Family(name=name, kind=Kind.COUNTER, about=about, samples=samples)


def _both(kind: Kind, old: str, new: str, about: str, samples: Sequence[Sample]) -> Iterator[Family]:
    """Return a family under its old name and its new one."""
    yield Family(name=old, kind=kind, about=_OLD + new, samples=samples)
    yield Family(name=new, kind=kind, about=about, samples=samples)


def _one(value: float) -> list[Sample]:
    return [("", value)]


def _live(facts: Facts) -> int:
    return sum(facts.fills[name].used for name in _FLOW_TABLES if name in facts.fills)


def _flows(facts: Facts) -> Iterator[Family]:
    live, totals = _live(facts), facts.accounts.protocols
    opened, active = (sum(getattr(one, name) for one in totals.values()) for name in ("opened", "active"))
    refused = sum(facts.reasons.get(name, 0) for name in _REFUSED)
    about = "Directions of live flows, two to a flow"
    yield from _both(Kind.GAUGE, "active_conntrack_count", "loxilb_active_conntrack_entries", about, _one(live))
    room = sum(facts.fills[name].capacity for name in _FLOW_TABLES if name in facts.fills)
    yield _gauge("loxilb_conntrack_max_entries", "Directions that the flow tables hold", _one(room))
    for protocol in _PROTOCOLS:
        name = f"active_flow_count_{protocol.value}"
        text = f"Live {protocol.value} flows that have not closed"
        yield from _both(Kind.GAUGE, name, f"loxilb_{name}", text, _one(totals[protocol].active))
    new = _one(opened - facts.opened_before)
    yield from _both(Kind.GAUGE, "new_flow_count", "loxilb_new_flows", "Flows opened since the last scrape", new)
    closing = max(0, live // 2 - active)
    yield _gauge("inactive_flow_count", "Flows that have closed and are remembered", _one(closing))
    yield from _both(Kind.COUNTER, "total_requests", "loxilb_requests_total", "Flows opened", _one(opened))
    about = "Packets dropped because their flow could not be opened: no source, port, room or route"
    yield from _both(Kind.COUNTER, "total_errors", "loxilb_errors_total", about, _one(refused))
    about = "Flows opened that have ended"
    yield _counter("loxilb_closed_connections_processed_total", about, _one(max(0, opened - active)))


def _configured(facts: Facts) -> Iterator[Family]:
    up, down = facts.health
    sizes = sum(total.bytes for total in facts.accounts.protocols.values())
    units = _live(facts) / _LCU_FLOWS + facts.rules / _LCU_RULES + sizes * 8 / _LCU_BITS
    yield from _both(Kind.GAUGE, "lb_rule_count", "loxilb_lb_rules", "Services", _one(facts.rules))
    about = "Probed endpoints that are up"
    yield from _both(Kind.GAUGE, "healthy_host_count", "loxilb_healthy_endpoints", about, _one(up))
    about = "Probed endpoints that are down"
    yield from _both(Kind.GAUGE, "unhealthy_host_count", "loxilb_unhealthy_endpoints", about, _one(down))
    yield _gauge("consumed_lcus", "Entries/2160000 + services/1000 + bits/3.6e11", _one(round(units, 6)))


def _processed(totals: Mapping[L4Protocol, Total]) -> Iterator[Family]:
    for unit in ("bytes", "packets"):
        value = sum(getattr(total, unit) for total in totals.values())
        new, about = f"loxilb_processed_{unit}_total", f"{unit.capitalize()} forwarded for services"
        yield from _both(Kind.COUNTER, f"processed_{unit}", new, about, _one(value))
    for protocol in _PROTOCOLS:
        word, total = protocol.value, totals[protocol]
        new, about = f"loxilb_processed_{word}_bytes_total", f"Bytes forwarded for {word} services"
        yield from _both(Kind.COUNTER, f"processed_{word}_bytes", new, about, _one(total.bytes))
        about = f"Packets forwarded for {word} services"
        yield _counter(f"loxilb_processed_{word}_packets_total", about, _one(total.packets))


def _by_service(accounts: Accounts) -> Iterator[Family]:
    services = accounts.services
    opened = [(labels, total.opened) for labels, total in services.items()]
    new = "loxilb_service_requests_total"
    yield from _both(Kind.COUNTER, "total_requests_per_service", new, "Flows opened, by service", opened)
    for unit in ("bytes", "packets"):
        samples = [(labels, getattr(total, unit)) for labels, total in services.items()]
        about = f"{unit.capitalize()} forwarded, by service"
        yield _counter(f"loxilb_service_traffic_{unit}_total", about, samples)
    whole = sum(total.bytes for total in services.values()) or 1
    shares = [(labels, round(total.bytes / whole, 6)) for labels, total in services.items()]
    yield _gauge("total_load_dists_per_service", "Share of a service in all bytes", shares)


def _by_endpoint(accounts: Accounts) -> Iterator[Family]:
    places = accounts.places
    for unit in ("bytes", "packets"):
        samples = [(labels, getattr(total, unit)) for labels, total in places.items()]
        old, about = f"lb_rule_interaction_{unit}", f"{unit.capitalize()} forwarded, by service and endpoint"
        yield from _both(Kind.COUNTER, old, f"loxilb_{old}_total", about, samples)
        if unit == "bytes":
            yield _counter("loxilb_endpoint_traffic_bytes_total", about, samples)
    active = [(labels, total.active) for labels, total in places.items()]
    yield _gauge("loxilb_endpoint_active_flows", "Live flows that have not closed, by service and endpoint", active)
    yield _gauge("endpoint_load_dists_per_service", "Share of an endpoint in its service's bytes", _shares(accounts))


def _shares(accounts: Accounts) -> list[Sample]:
    services, owners = accounts.services, accounts.shares
    wholes = ((labels, total.bytes, services.get(owners.get(labels, ""))) for labels, total in accounts.places.items())
    return [(labels, round(size / whole.bytes, 6) if whole and whole.bytes else 0) for labels, size, whole in wholes]


def _data_plane(facts: Facts) -> Iterator[Family]:
    reasons = [(labelled(reason=name), count) for name, count in facts.reasons.items()]
    yield _counter("loxilb_packets_total", "Packets by the reason they left the data plane with", reasons)
    drops = [
        (labelled(reason=name.removeprefix("drop_")), count)
        for name, count in facts.reasons.items()
        if name.startswith("drop_")
    ]
    yield _counter("loxilb_dropped_packets_total", "Packets dropped, by reason", drops)
    fills = facts.fills.items()
    used = [(labelled(map=name), fill.used) for name, fill in fills]
    yield _gauge("loxilb_map_entries", "Entries used, by map", used)
    room = [(labelled(map=name), fill.capacity) for name, fill in fills]
    yield _gauge("loxilb_map_capacity_entries", "Entries there is room for, by map", room)
    lost = "Reports of flows that found the ring buffer full"
    yield _counter("loxilb_lost_reports_total", lost, _one(facts.lost_reports))


def _latencies(latencies: Latencies) -> Iterator[Family]:
    def histogram(name: str, about: str, samples: Sequence[Sample]) -> Family:
        return Family(name=f"loxilb_{name}_seconds", kind=Kind.HISTOGRAM, about=about, samples=samples)

    yield histogram("apply", "Time for a change to reach the kernel's maps", latencies.apply.samples())
    failures = "Changes that the kernel refused"
    yield _counter("loxilb_apply_failures_total", failures, _one(latencies.apply_failures))
    probes = [
        sample
        for kind, one in sorted(latencies.probes.items())
        for sample in one.samples(labelled(type=kind).strip("{}"))
    ]
    yield histogram("probe", "Time that a probe took, whatever came of it, by kind", probes)
    yield histogram("scrape", "Time to gather the metrics", latencies.scrape.samples())


def _reconciled(reconciler: ReconcilerStatus) -> Iterator[Family]:
    works = [(labelled(work=one.name), one) for one in reconciler.works]
    failing = [(labels, int(one.state is WorkState.FAILING)) for labels, one in works]
    yield _gauge("loxilb_reconcile_failing", "1 while a work in the background fails and is tried again", failing)
    failed = [(labels, one.failed) for labels, one in works]
    yield _counter("loxilb_reconcile_failures_total", "Failures of works in the background", failed)
    repairs = [(labelled(what=what), count) for what, count in sorted(reconciler.repairs.items())]
    yield _counter("loxilb_repairs_total", "What others had changed or removed, by what it was", repairs)

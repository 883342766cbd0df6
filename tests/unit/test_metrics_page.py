# SPDX-License-Identifier: Apache-2.0
"""The page over a kernel in memory: switch, families, and what the documents say of them."""

import asyncio
import re
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from loxilb.errors import KernelError
from loxilb.kernel.fake import FakeDataPlane
from loxilb.measured import MeasuredDataPlane, MeasuredProber
from loxilb.model import L4Protocol
from loxilb.model.image import DropListener, Listener
from loxilb.model.probe import HealthCheck, ProbeKind
from loxilb.services.health import Outcome
from loxilb.services.metrics import Latencies
from loxilb.services.metrics.service import MetricsService
from tests.support.api import LiveApi, fake_kernel_api

PAGE = "/netlox/v1/metrics"
SWITCH = "/netlox/v1/config/metrics"
RULE = (
    '{"serviceArguments":{"externalIP":"20.20.20.1","port":2020,"protocol":"tcp","name":"web"},'
    '"endpoints":[{"endpointIP":"31.31.31.1","targetPort":8080,"weight":1}]}'
)


@pytest.fixture
def api() -> Iterator[LiveApi]:
    """A live server with metrics on."""
    with fake_kernel_api() as live:
        live.request("POST", SWITCH)
        yield live


def scrape(api: LiveApi) -> dict[tuple[str, ...], float]:
    """Return the samples by name and label values; the library adds ``_total`` to counters that lack it."""
    reply = api.request("GET", PAGE, headers={"Accept": "text/plain;version=0.0.4"})
    assert reply.status == 200
    assert reply.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    found = text_string_to_metric_families(reply.body.decode())
    return {(one.name, *one.labels.values()): one.value for family in found for one in family.samples}


def connect(api: LiveApi, port: int) -> None:
    """Open a flow."""
    listener = Listener.of(ip_address("20.20.20.1"), L4Protocol.TCP, 2020)
    api.data_plane.connect(listener, ip_address("10.10.10.1"), port)


def test_the_switch_works_as_the_original_s() -> None:
    """Off at first; texts and codes as recorded; 503 in plain text while it is off."""
    with fake_kernel_api() as api:
        off = api.request("GET", PAGE)
        assert (off.status, off.headers["content-type"]) == (503, "text/plain; version=0.0.4; charset=utf-8")
        assert b"--prometheus" in off.body
        results = [
            api.request(method, SWITCH).json for method in ("GET", "DELETE", "POST", "POST", "GET", "DELETE", "GET")
        ]

    assert results == [
        {"prometheus": False},
        {"result": "Prometheus is already disabled."},
        {"result": "Success"},
        {"result": "Prometheus is already enabled."},
        {"prometheus": True},
        {"result": "Success"},
        {"prometheus": False},
    ]


def test_the_page_shows_what_is_there(api: LiveApi) -> None:
    """Both names of a family; by service, by endpoint, by reason, by map."""
    api.request("POST", "/netlox/v1/config/loadbalancer", RULE)
    for port in (40000, 40001):
        connect(api, port)

    found = scrape(api)

    assert found["lb_rule_count",] == found["loxilb_lb_rules",] == 1
    assert found["active_flow_count_tcp",] == found["loxilb_active_flow_count_tcp",] == 2
    assert found["total_requests_total",] == found["loxilb_requests_total",] == found["new_flow_count",] == 2
    assert found["processed_bytes_total",] == found["loxilb_processed_tcp_bytes_total",] == 80
    assert found["total_requests_per_service_total", "web"] == 2
    assert found["loxilb_service_traffic_packets_total", "web"] == 2
    assert found["lb_rule_interaction_bytes_total", "web", "31.31.31.1"] == 80
    assert found["endpoint_load_dists_per_service", "web", "31.31.31.1"] == 1
    assert found["loxilb_packets_total", "forward_new"] == 2
    assert found["loxilb_map_entries", "rules"] == 1
    assert found["unhealthy_host_count",] == 0


def test_new_flows_are_those_since_the_last_scrape(api: LiveApi) -> None:
    """The totals go on."""
    api.request("POST", "/netlox/v1/config/loadbalancer", RULE)
    connect(api, 40000)
    scrape(api)
    connect(api, 40001)

    found = scrape(api)

    assert (found["new_flow_count",], found["loxilb_requests_total",]) == (1, 2)


def test_closed_flows_are_counted(api: LiveApi) -> None:
    """What was opened and is not there any more."""
    api.request("POST", "/netlox/v1/config/loadbalancer", RULE)
    connect(api, 40000)
    api.data_plane.disconnect(ip_address("10.10.10.1"), 40000)

    assert scrape(api)["loxilb_closed_connections_processed_total",] == 1


def test_both_places_give_the_page(api: LiveApi) -> None:
    """The one of the original, and the one every scraper tries first."""
    assert api.request("GET", "/metrics", headers={"Accept": "*/*"}).status == 200


def test_scrapes_at_once_share_one_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """Totals are followed by one thread at a time."""
    gathered = 0

    async def gather(_service: MetricsService) -> bytes:
        nonlocal gathered
        gathered += 1
        await asyncio.sleep(0)
        return b"page"

    async def scene() -> list[bytes]:
        service = MetricsService.__new__(MetricsService)
        service._running = None
        return list(await asyncio.gather(service.page(), service.page()))

    monkeypatch.setattr(MetricsService, "_gather", gather)

    assert asyncio.run(scene()) == [b"page", b"page"]
    assert gathered == 1


def test_changes_are_timed_and_refusals_counted() -> None:
    """A change that the kernel refuses is timed like one that it takes."""
    fake, latencies = FakeDataPlane(), Latencies()
    measured = MeasuredDataPlane(fake, latencies)
    listener = Listener.of(ip_address("20.20.20.1"), L4Protocol.TCP, 2020)
    measured.apply([])
    fake.fail_in(0)

    with pytest.raises(KernelError, match="asked to fail"):
        measured.apply([DropListener(listener=listener)])

    assert dict(latencies.apply.samples())["_count"] == 2
    assert latencies.apply_failures == 1


def test_probes_are_timed_by_kind() -> None:
    """One that came too late because this program was busy says nothing of the endpoint."""

    class Prober:
        """Answers, the second time too late."""

        late = False

        async def probe(self, *_: object) -> Outcome:
            outcome, self.late = Outcome(late=self.late), True
            return outcome

        def close(self) -> None:
            """Nothing is open."""

    latencies = Latencies()
    prober = MeasuredProber(Prober(), latencies)
    check = HealthCheck(kind=ProbeKind.TCP, port=80)
    for _ in range(2):
        asyncio.run(prober.probe(ip_address("31.31.31.1"), check))

    assert dict(latencies.probes["tcp"].samples())["_count"] == 1


def test_every_family_is_documented(api: LiveApi) -> None:
    """The page of the documents names what is served, and nothing else."""
    api.request("POST", "/netlox/v1/config/loadbalancer", RULE)
    connect(api, 40000)
    scrape(api)
    page = api.request("GET", PAGE).body.decode()
    absent = {"loxilb_probe_seconds", "loxilb_dropped_packets_total", "loxilb_repairs_total"}
    served = set(re.findall(r"^# TYPE (\S+)", page, re.M)) | absent
    text = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text()
    table = [line for line in text.splitlines() if line.startswith(("| `", "| | `"))]
    named = {name for line in table for name in re.findall(r"`([a-z_0-9]+)`", "|".join(line.split("|")[1:3]))}

    assert named == served

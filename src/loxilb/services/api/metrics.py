# SPDX-License-Identifier: Apache-2.0
"""The operations about metrics: the page that is scraped, and its switch."""

from collections.abc import Mapping

from loxiapi import wire
from loxilb.ports import MetricsPage
from loxilb.proto.metrics import CONTENT_TYPE
from loxilb.services.api.handlers import Answer, Call, Handler, Text

_OFF = Text(
    content=b"metrics are off; start loxilb with --prometheus, or POST /netlox/v1/config/metrics\n",
    media=CONTENT_TYPE,
    status=503,
)


class MetricsHandlers:
    """Carries out what the original has of metrics; ``POST`` and ``DELETE`` of the switch take no body."""

    def __init__(self, page: MetricsPage) -> None:
        """Serve ``page``."""
        self._page = page

    def by_operation(self) -> Mapping[str, Handler]:
        """Return the method for every operation about metrics."""
        return {
            "get_metrics": self._get,
            "get_metrics_at_root": self._get,
            "get_metrics_switch": self._get_switch,
            "enable_metrics": self._enable,
            "disable_metrics": self._disable,
        }

    async def _get(self, _: Call) -> Answer:
        return Text(content=await self._page.page(), media=CONTENT_TYPE) if self._page.enabled else _OFF

    async def _get_switch(self, _: Call) -> Answer:
        return wire.MetricsSwitch(prometheus=self._page.enabled)

    async def _enable(self, _: Call) -> Answer:
        return self._set(True, "Prometheus is already enabled.")

    async def _disable(self, _: Call) -> Answer:
        return self._set(False, "Prometheus is already disabled.")

    def _set(self, wanted: bool, already: str) -> Answer:
        if self._page.enabled is wanted:
            return wire.Result(result=already)
        self._page.enabled = wanted
        return wire.SUCCESS

# SPDX-License-Identifier: Apache-2.0
"""Flows that lose their endpoint end."""

from dataclasses import replace

import pytest

from loxilb.kernel.abi import Reason
from tests.packet.answers import reset
from tests.packet.driver import SMALL, Driver
from tests.support.bpf import Hook
from tests.support.lab import wait_for
from tests.support.packets import SYN

pytestmark = pytest.mark.must_run
SETTINGS = replace(SMALL, flows4=64, flows6=64, half_open4=64, half_open6=64)


def test_flows_of_a_dropped_endpoint_end(module_driver: Driver, hook: Hook, version: int) -> None:
    """Soon, all of them and no other; their slots become free."""
    service = module_driver.service(version)
    opened = [module_driver.open(hook, module_driver.path(service, endpoint=number % 3)) for number in range(9)]
    half = module_driver.path(service)
    module_driver.send(hook, half.request(flags=SYN))

    module_driver.put(service.with_endpoints(service.endpoints[1:]))

    wait_for(lambda: len(module_driver.flows(service)) == 12, what="the end of the flows")
    for number, path in enumerate(opened):
        if number % 3:
            module_driver.use(hook, path)
    late = opened[0].request()
    module_driver.expect_answer(hook, late, Reason.ANSWER_RESET, reset(late))
    module_driver.expect(hook, opened[0].reply(), Reason.PASS_NOT_SERVICE)
    module_driver.drop(service)
    wait_for(lambda: not module_driver.used_slots(), what="free slots")


def test_flows_of_a_dropped_service_end(module_driver: Driver, hook: Hook, version: int) -> None:
    """Its packets are passed again, as those of any other host."""
    service = module_driver.service(version)
    path = module_driver.open(hook, module_driver.path(service))

    module_driver.drop(service)

    wait_for(lambda: not list(module_driver.data_plane.flows()), what="the end of the flow")
    module_driver.expect(hook, path.request(), Reason.PASS_NOT_SERVICE)
    wait_for(lambda: not module_driver.used_slots(), what="free slots")
    assert module_driver.data_plane.counters() == {}

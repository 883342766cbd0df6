# SPDX-License-Identifier: Apache-2.0
"""What the history says of a write."""

import pytest

from loxilb.model.probe import HostState
from loxilb.model.revision import LOG_LEVEL, Changes
from loxilb.plan import summary
from tests.support.services import key, service

ONE, SIX = service(), service(("4ffe::1,80",), of=key("2001::1", 80, port_max=90))
MANY = {key(port=number): None for number in range(1, 5)}

CASES = {
    "create service 20.20.20.1:2020/tcp": Changes(services={ONE.key: ONE}),
    "delete service [2001::1]:80-90/tcp": Changes(services={SIX.key: None}),
    "change service [2001::1]:80-90/tcp": Changes(services={SIX.key: SIX}),
    "create service 20.20.20.1:2020/tcp; change service [2001::1]:80-90/tcp; delete 4 services": Changes(
        services={ONE.key: ONE, SIX.key: SIX, **MANY}
    ),
    "create service 20.20.20.1:2020/tcp web.example": Changes(
        services={key(host="web.example"): service(of=key(host="web.example"))}
    ),
    "green endpoint b, c; red endpoint a": Changes(states={"a": HostState.RED, "b": None, "c": HostState.GREEN}),
    "no longer probe endpoint a": Changes(endpoints={"a": None}),
    "log level as started": Changes(parameters={LOG_LEVEL: None}),
    "log level info": Changes(parameters={LOG_LEVEL: "info"}),
    "nothing": Changes(),
}


@pytest.mark.parametrize("text", CASES)
def test_few_are_named_and_many_counted(text: str) -> None:
    """One line, whatever was changed."""
    assert summary(CASES[text], {SIX.key}) == text

# SPDX-License-Identifier: Apache-2.0
"""Work in the background: asked for, done once, tried again, and shown."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from loxilb.errors import KernelError
from loxilb.model.work import WorkState, WorkStatus
from loxilb.plan import pause_after
from loxilb.plan.backoff import FIRST_S, LIMIT_S
from loxilb.services.reconcile import Reconciler
from loxilb.services.reconcile.work import ASKED_S
from tests.support.virtual import play

REFUSED = KernelError("attach", 16, remedy="free the hook")


class Stage:
    """A reconciler with one work that notes when it is done, and fails as often as it is told to."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.refusals, self.fault = 0, False
        self.lasts = 0.0
        self.again: float | None = None
        self.reconciler = Reconciler()
        self.reconciler.add("one", self._work)

    async def _work(self) -> float | None:
        self.times.append(asyncio.get_running_loop().time())
        await asyncio.sleep(self.lasts)
        if self.fault:
            raise ZeroDivisionError("oops")
        if self.refusals:
            self.refusals -= 1
            raise REFUSED
        return self.again

    @property
    def status(self) -> WorkStatus:
        """How the work stands."""
        return self.reconciler.status().works[0]


def run(scene: Callable[[Stage], Awaitable[None]]) -> Stage:
    async def whole() -> Stage:
        stage = Stage()
        working = asyncio.create_task(stage.reconciler.run())
        await asyncio.sleep(1)
        await scene(stage)
        working.cancel()
        return stage

    return play(whole())


def test_nothing_is_done_unasked():
    async def scene(_stage: Stage) -> None:
        await asyncio.sleep(1000)

    assert run(scene).times == []


def test_asked_for_often_it_is_done_once_and_once_more_for_what_came_meanwhile():
    async def scene(stage: Stage) -> None:
        stage.lasts = 1.0
        for _ in range(5):
            stage.reconciler.ask("one")
        await asyncio.sleep(0.5)
        states = [stage.status.state]
        for _ in range(5):
            stage.reconciler.ask("one")
        await asyncio.sleep(0.1)
        states.append(stage.status.state)
        await asyncio.sleep(10)
        states.append(stage.status.state)
        assert states == [WorkState.CONVERGED, WorkState.REPAIRING, WorkState.CONVERGED]

    assert run(scene).times == [1.0, 2.0]


def test_what_is_asked_before_it_runs_is_done():
    async def whole() -> list[float]:
        stage = Stage()
        stage.reconciler.ask("one")
        working = asyncio.create_task(stage.reconciler.run())
        await asyncio.sleep(1)
        working.cancel()
        return stage.times

    assert play(whole()) == [0.0]


def test_it_is_done_again_when_it_said_so():
    async def scene(stage: Stage) -> None:
        stage.again = 10.0
        stage.reconciler.ask("one")
        await asyncio.sleep(25)

    assert run(scene).times == [1.0, 11.0, 21.0]


def test_a_failure_is_shown_and_tried_again_later_each_time():
    async def scene(stage: Stage) -> None:
        stage.refusals = 12
        stage.reconciler.ask("one")
        await asyncio.sleep(1.0)
        status = stage.status
        assert (status.state, status.cause, status.remedy) == (WorkState.FAILING, "attach: EBUSY", "free the hook")
        assert status.failures == status.failed == len(stage.times)
        assert status.failing_since is not None
        assert status.last_done is None
        assert stage.reconciler.status().state is WorkState.FAILING
        await asyncio.sleep(1000)

    with capture_logs() as logs:
        stage = run(scene)

    waits = [after - before for before, after in zip(stage.times, stage.times[1:], strict=False)]
    assert len(waits) == 12
    for failures, wait in enumerate(waits, 1):
        assert pause_after(failures, 1) <= wait + 1e-6 <= pause_after(failures, 0) + 2e-6
    status = stage.status
    assert (status.state, status.failures, status.failed, status.cause) == (WorkState.CONVERGED, 0, 12, "")
    assert status.last_done is not None
    assert [one["event"] for one in logs].count("background work failed, trying again") == 12
    assert logs[-1]["event"] == "background work done after failures"


@given(st.integers(1, 10_000), st.floats(0, 1))
def test_a_pause_has_bounds(failures: int, chance: float) -> None:
    assert FIRST_S / 2 <= pause_after(failures, chance) <= LIMIT_S
    assert pause_after(failures + 1, chance) >= pause_after(failures, chance)


def test_news_shorten_the_wait_of_what_fails():
    async def scene(stage: Stage) -> None:
        stage.refusals = 10
        stage.reconciler.ask("one")
        await asyncio.sleep(60)
        stage.refusals = 0
        for _ in range(5):
            stage.reconciler.ask("one")
        await asyncio.sleep(ASKED_S + 0.01)
        assert stage.status.state is WorkState.CONVERGED

    run(scene)


def test_news_while_it_fails_shorten_the_next_wait():
    async def scene(stage: Stage) -> None:
        stage.refusals = 1000
        stage.reconciler.ask("one")
        await asyncio.sleep(60)
        stage.refusals, stage.lasts, tries = 1, 5.0, len(stage.times)
        async with asyncio.timeout(100):
            while len(stage.times) == tries:  # noqa: ASYNC110 in virtual time
                await asyncio.sleep(1)
        stage.reconciler.ask("one")
        await asyncio.sleep(20)
        assert stage.times[-1] - stage.times[-2] == pytest.approx(5.0 + ASKED_S)

    run(scene)


def test_it_is_done_after_some_time():
    async def scene(stage: Stage) -> None:
        stage.reconciler.ask_in("one", 10)
        await asyncio.sleep(5)
        stage.reconciler.ask_in("one", 1000)
        await asyncio.sleep(50)

    assert run(scene).times == [11.0]


def test_a_fault_is_shown_and_ends_nothing():
    async def scene(stage: Stage) -> None:
        stage.fault = True
        stage.reconciler.ask("one")
        await asyncio.sleep(0.01)
        assert stage.status.cause == "ZeroDivisionError: oops"
        stage.fault = False
        await asyncio.sleep(1)
        assert stage.status.state is WorkState.CONVERGED

    with capture_logs():
        run(scene)


def test_a_work_that_takes_long_keeps_no_other_waiting():
    async def scene(stage: Stage) -> None:
        done = asyncio.Event()

        async def other() -> None:
            done.set()

        stage.reconciler.add("other", other)
        stage.lasts = 100
        stage.reconciler.ask("one", "other")
        await asyncio.wait_for(done.wait(), 1)

    run(scene)


def test_repairs_are_counted_by_what_they_were():
    reconciler = Reconciler()
    reconciler.note({"link": 2})
    reconciler.note({"link": 1, "pin": 1})
    assert reconciler.status().repairs == {"link": 3, "pin": 1}


@pytest.mark.parametrize("turns", range(5))
def test_it_ends_when_it_is_ended_while_something_is_asked_for(turns):
    """In whichever turn of the loop."""

    async def whole() -> None:
        stage = Stage()
        stage.again = 1000
        stage.reconciler.ask("one")
        working = asyncio.create_task(stage.reconciler.run())
        await asyncio.sleep(1)
        stage.reconciler.ask("one")
        for _ in range(turns):
            await asyncio.sleep(0)
        working.cancel()
        await asyncio.wait({working}, timeout=1)
        assert working.cancelled()

    play(whole())

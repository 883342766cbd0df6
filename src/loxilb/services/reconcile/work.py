# SPDX-License-Identifier: Apache-2.0
"""One kind of work: when it is due, and how it went. Times are arguments, in seconds."""

from collections.abc import Awaitable, Callable

from loxilb.model.work import WorkState, WorkStatus
from loxilb.plan import pause_after

Run = Callable[[], Awaitable[float | None]]

ASKED_S = 0.5
"""Seconds that something asked for waits at most while its last try failed: what has changed may help."""


class Work:
    """Something that is done when it is asked for; asked for several times before it begins, it is done once."""

    def __init__(self, name: str, run: Run) -> None:
        """Keep ``run``, which returns the seconds until it is to be done again, None where only when asked."""
        self.name = name
        self.run = run
        self._due: float | None = None
        self._running = False
        self._failures = 0
        self._failed = 0
        self._last_done: float | None = None
        self._failing_since: float | None = None
        self._cause = self._remedy = ""
        self._asked = False

    @property
    def due(self) -> float | None:
        """When it is to begin; None while it runs, and while nothing asks for it."""
        return None if self._running else self._due

    def ask(self, now: float) -> None:
        """Have it done: at once, soon where the last try failed, after its end where it runs."""
        self._asked = True
        self._not_later_than(now + ASKED_S if self._failures else now)

    def wait_until(self, time: float) -> None:
        """Have it done at ``time``, or sooner where it is asked for."""
        self._not_later_than(time)

    def begin(self) -> None:
        """Start: what is asked from now on needs another run."""
        self._running, self._due, self._asked = True, None, False

    def done(self, now: float, clock: float, again: float | None) -> None:
        """Note that it went well at ``clock`` (since 1970), and is due again after so many seconds."""
        self._running, self._failures, self._failing_since = False, 0, None
        self._cause = self._remedy = ""
        self._last_done = clock
        if again is not None:
            self._not_later_than(now + again)

    def fail(self, now: float, clock: float, error: tuple[str, str], chance: float) -> float:
        """Note a failure, its cause and remedy; returns the seconds until it is tried again."""
        self._running = False
        self._failures += 1
        self._failed += 1
        self._failing_since = self._failing_since or clock
        self._cause, self._remedy = error
        wait = pause_after(self._failures, chance)
        if self._asked:  # while it ran
            wait = min(wait, ASKED_S)
        self._due = now + wait
        return wait

    @property
    def failures(self) -> int:
        """How often it failed in a row."""
        return self._failures

    @property
    def status(self) -> WorkStatus:
        """How it stands."""
        under_way = self._asked or (self._running and bool(self._failures))
        calm = WorkState.REPAIRING if under_way else WorkState.CONVERGED
        return WorkStatus(
            name=self.name,
            state=WorkState.FAILING if self._failures else calm,
            failures=self._failures,
            failed=self._failed,
            last_done=self._last_done,
            failing_since=self._failing_since,
            cause=self._cause,
            remedy=self._remedy,
        )

    def _not_later_than(self, time: float) -> None:
        self._due = time if self._due is None else min(self._due, time)

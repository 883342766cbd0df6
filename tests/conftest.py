# SPDX-License-Identifier: Apache-2.0
"""Rules of every test run: what must run is not skipped, and nothing of an earlier session is in the way."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.support.lab import Lab, remove_leftovers

_skipped: list[str] = []
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


def pytest_sessionstart(session: pytest.Session) -> None:
    """Remove what a killed session left behind."""
    if os.geteuid() == 0 and not hasattr(session.config, "workerinput"):
        remove_leftovers()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Note every skip of a test that must run."""
    outcome = yield
    report = outcome.get_result()  # type: ignore[attr-defined]
    if report.skipped and item.get_closest_marker("must_run"):
        _skipped.append(item.nodeid)


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Turn the run red when a must-run test was skipped."""
    if _skipped and exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Name the must-run tests that were skipped."""
    for test in _skipped:
        terminalreporter.write_line(f"MUST RUN, BUT SKIPPED: {test}", red=True)


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    """Return an empty lab that is undone after the test."""
    with Lab(folder=tmp_path) as made:
        yield made

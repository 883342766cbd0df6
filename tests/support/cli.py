# SPDX-License-Identifier: Apache-2.0
"""Running the command line inside the test's process."""

from dataclasses import dataclass

import pytest

from loxicmd.grammar import run
from loxicmd.root import root
from loxilb import cli as daemon


@dataclass(frozen=True, slots=True)
class Cli:
    """Runs ``loxicmd``; the result is exit code, stdout and stderr."""

    capsys: pytest.CaptureFixture[str]

    def __call__(self, *args: str) -> tuple[int, str, str]:
        """Run with ``args``."""
        code = run(root, args)
        captured = self.capsys.readouterr()
        return code, captured.out, captured.err


def call_daemon(*arguments: str) -> int:
    """Run the command ``loxilb`` and return its exit code."""
    with pytest.raises(SystemExit) as caught:
        daemon.main(list(arguments))
    assert isinstance(caught.value.code, int)
    return caught.value.code

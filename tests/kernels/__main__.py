# SPDX-License-Identifier: Apache-2.0
"""Runs the core subset on kernels: ``python -m tests.kernels KERNEL... [-- OPTIONS OF PYTEST...]``."""

import os
import sys
from collections.abc import Sequence

from tests.kernels import machine
from tests.kernels.packages import CACHE, NAMES, Unavailable, kernel
from tests.support.lab import ROOT

_PATIENCE_S = 3600
_SLOWER = "20"
_MARKS = {"5.10": "kernel and not newer"}  # where a part of the subset cannot pass


def main(arguments: Sequence[str]) -> int:
    """Return 0 when the tests passed everywhere."""
    cut = arguments.index("--") if "--" in arguments else len(arguments)
    names, more = list(arguments[:cut]), arguments[cut + 1 :]
    if not names or not set(names) <= set(NAMES):
        sys.stderr.write(f"which kernels? There are: {' '.join(NAMES)}\n")
        return 2
    failed = [name for name in names if not _passes(name, more)]
    sys.stdout.write(f"FAILED on {', '.join(failed)}\n" if failed else f"PASSED on {', '.join(names)}\n")
    return int(bool(failed))


def _passes(name: str, more: Sequence[str]) -> bool:
    sys.stdout.write(f"== kernel {name}\n")
    try:
        return _run(name, more) == 0
    except Unavailable as error:
        sys.stdout.write(f"{name}: {error}\n")
        return False


def _run(name: str, more: Sequence[str]) -> int:
    """Run the tests on one kernel; returns pytest's exit code. Files without such tests are not even read there."""
    mark = _MARKS.get(name, "kernel")
    files = [str(path.relative_to(ROOT)) for path in sorted((ROOT / "tests").glob("*/test_*.py"))]
    marked = [file for file in files if "@pytest.mark.kernel\n" in (ROOT / file).read_text()]
    return machine.run(
        kernel(name),
        [sys.executable, "-m", "pytest", "-q", "--color=no", "-p", "no:cacheprovider", "-m", mark, *marked, *more],
        folder=CACHE / name,
        environment={"LOXILB_SLOWER": _SLOWER, "PYTHONPATH": os.environ.get("PYTHONPATH", "")},
        patience_s=_PATIENCE_S,
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

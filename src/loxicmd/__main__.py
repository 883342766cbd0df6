# SPDX-License-Identifier: Apache-2.0
"""Entry point of ``loxicmd``."""

import sys

from loxicmd.grammar import run
from loxicmd.root import root


def main() -> None:
    """Run the command line and end the process with its exit code."""
    sys.exit(run(root, sys.argv[1:]))


if __name__ == "__main__":
    main()

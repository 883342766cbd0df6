# SPDX-License-Identifier: Apache-2.0
"""The program ``loxilb``."""

import gc
from typing import NoReturn


def main() -> NoReturn:
    """Run the command line.

    What is imported stays, and so does what a daemon makes before it serves: nobody looks for garbage in it.
    """
    gc.disable()
    from loxilb.cli import main as run  # noqa: PLC0415 not before

    run()


if __name__ == "__main__":
    main()

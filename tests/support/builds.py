# SPDX-License-Identifier: Apache-2.0
"""Another build of the load balancer, as an upgrade brings it."""

import shutil
from collections.abc import Mapping
from pathlib import Path

from tests.support.lab import ROOT, run

_OBJECTS = "src/loxilb/kernel/bpf/objects"
_REPLACED = ("tc", "xdp")
# What only programs of one build share may differ from build to build: the record of the packet in hand, the steps.
_EDITS: Mapping[str, tuple[str, str]] = {
    "work.h": ("struct lox_work {\n", "struct lox_work {\n\t__u64 other_build[3];\n"),
    "steps_tc.h": ("enum {\n\tLOX_STEP_SLOW4,", "enum {\n\tLOX_STEP_OTHER_BUILD,\n\tLOX_STEP_SLOW4,"),
    "steps_xdp.h": ("enum { LOX_STEP_SLOW4,", "enum { LOX_STEP_OTHER_BUILD, LOX_STEP_SLOW4,"),
}


def another_build(folder: Path) -> Path:
    """Copy the daemon and compile its programs from changed sources; returns the directory for PYTHONPATH.

    The programs do the same, but an entry program of one build that met steps of the other would go astray.
    """
    shutil.copytree(ROOT / "src", folder / "src", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "bpf", folder / "bpf")
    shutil.copy(ROOT / "Makefile", folder)
    for name, (before, after) in _EDITS.items():
        path = folder / "bpf" / name
        text = path.read_text()
        assert text.count(before) == 1, f"{name} has changed"
        path.write_text(text.replace(before, after))
    objects = [f"{_OBJECTS}/{name}.bpf.o" for name in _REPLACED]
    for each in objects:
        (folder / each).unlink()
    run(["make", "-s", "-C", str(folder), f"OBJECT_DIR={_OBJECTS}", *objects], timeout=300)
    return folder / "src"

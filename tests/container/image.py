# SPDX-License-Identifier: Apache-2.0
"""A root directory made as the Containerfile says."""

import os
import re
import shutil
from pathlib import Path

from tests.kernels.packages import mirrors
from tests.support.lab import ROOT, Lab, run

_FILE = ROOT / "deploy" / "Containerfile"
_BASE = ROOT / "build" / "container" / "bookworm"
_PATIENCE_S = 900
# What a step needs of this host: names, and whom to trust.
_LENT = (Path("/etc/resolv.conf"), Path("/etc/ssl/certs/ca-certificates.crt"))


def capabilities() -> list[str]:
    """Return those of the run line: ``bpf``, ``net_admin`` and so on."""
    (words,) = re.findall(r"--cap-drop all --cap-add (\S+)", _FILE.read_text())
    return [str(word).lower() for word in words.split(",")]


def entry_point() -> str:
    """Return the program that a container runs."""
    (program,) = re.findall(r'^ENTRYPOINT \["([^"]+)"\]$', _FILE.read_text(), re.MULTILINE)
    return str(program)


def build(lab: Lab, wheel: Path) -> Path:
    """Return the root of the image, which goes with the lab; the base stays for the next time."""
    if not _BASE.is_dir():
        _make_base()
    root = lab.folder / "root"
    parts = [lab.folder / part for part in ("upper", "work", "root")]
    for part in parts:
        part.mkdir()
    layers = f"lowerdir={_BASE},upperdir={parts[0]},workdir={parts[1]}"
    _mount(lab, root, "-t", "overlay", "-o", layers, "overlay")
    _mount(lab, root / "proc", "-t", "proc", "proc")
    _mount(lab, root / "dev", "--bind", "/dev")
    for word, rest in _steps():
        if word == "COPY":
            _, target = rest.split()
            shutil.copy(wheel, root / target.strip("/"))
        elif word == "RUN":
            _lend(root)
            run(["chroot", str(root), "sh", "-ec", rest], timeout=_PATIENCE_S)
    return root


def _lend(root: Path) -> None:
    """Put what a step needs of this host in place, again where a package has replaced it."""
    for path in filter(Path.exists, _LENT):
        place = root / path.relative_to("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, place)


def _steps() -> list[tuple[str, str]]:
    """Return the instructions, continued lines joined (Containerfile(5))."""
    text = re.sub(r"\\\n\s*", "", _FILE.read_text())
    return [(word, rest) for line in text.splitlines() for word, _, rest in [line.partition(" ")] if word.isupper()]


def _make_base() -> None:
    partial = _BASE.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.parent.mkdir(parents=True, exist_ok=True)
    run(["debootstrap", "--variant=minbase", _BASE.name, str(partial), mirrors()[0]], timeout=_PATIENCE_S)
    partial.rename(_BASE)


def _mount(lab: Lab, place: Path, *how: str) -> None:
    run(["mount", *how, os.fspath(place)])
    lab.undo(run, ["umount", "--lazy", os.fspath(place)])

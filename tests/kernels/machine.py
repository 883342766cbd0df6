# SPDX-License-Identifier: Apache-2.0
"""An emulated machine that boots a kernel on this host's files and runs one command."""

import os
import shlex
import shutil
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from tests.kernels.initramfs import build
from tests.kernels.packages import Kernel, Unavailable

_FIRST, _SECOND = (Path(__file__).with_name(name) for name in ("init.sh", "guest.sh"))
_EMULATOR = "qemu-system-x86_64"


def _share(name: str, path: Path, more: str) -> list[str]:
    """Return the options of a directory that the machine can mount (9p)."""
    place = f"local,id={name},path={path},security_model=none,multidevs=remap{more}"
    return ["-fsdev", place, "-device", f"virtio-9p-pci,fsdev={name},mount_tag={name}"]


def _command(kernel: Kernel, archive: Path, out: Path) -> list[str]:
    if not shutil.which(_EMULATOR):
        raise Unavailable(f"{_EMULATOR} is missing: install qemu-system-x86")
    line = f"console=ttyS0 quiet loglevel=4 panic=-1 mitigations=off lox.second={_SECOND}"
    return [
        *("nice", "-n", "3", _EMULATOR, "-nodefaults", "-no-user-config", "-no-reboot"),
        *("-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "4G"),
        *("-display", "none", "-serial", "stdio"),
        *_share("host", Path("/"), ",readonly=on"),
        *_share("out", out, ""),
        *("-kernel", str(kernel.image), "-initrd", str(archive), "-append", line),
    ]


def run(kernel: Kernel, command: Sequence[str], *, folder: Path, environment: dict[str, str], patience_s: int) -> int:
    """Run ``command`` in the project's directory and return its exit code.

    What the machine prints goes to standard output and to ``folder/log``. Raises Unavailable.
    """
    out = folder / "out"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    archive = folder / "initramfs"
    archive.write_bytes(build(kernel, _FIRST.read_text()))
    settings = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in environment.items())
    (out / "machine").write_text(f"MODULES={shlex.quote(str(kernel.modules))}\n{settings}")
    (out / "command").write_text(f"exec {shlex.join(command)}\n")
    _watch(_command(kernel, archive, out), folder / "log", patience_s)
    status = out / "status"
    if not status.exists():
        raise Unavailable(f"the machine ended before the command did; see {folder / 'log'}")
    return int(status.read_text())


def _watch(command: Sequence[str], log: Path, patience_s: int) -> None:
    """Run the emulator to its end, at most so long, and pass on what it prints."""
    with log.open("wb") as kept, subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as machine:
        assert machine.stdout is not None
        late = threading.Timer(patience_s, machine.kill)
        late.start()
        try:
            while chunk := os.read(machine.stdout.fileno(), 1 << 16):
                kept.write(chunk)
                sys.stdout.write(chunk.decode(errors="replace"))
                sys.stdout.flush()
        finally:
            late.cancel()
            machine.kill()

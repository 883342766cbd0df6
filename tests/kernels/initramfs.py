# SPDX-License-Identifier: Apache-2.0
"""The first file system of the machine: busybox, the modules that reach this host's files, and a script."""

import lzma
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.kernels.packages import Kernel, Unavailable

_WANTED = ("virtio_pci", "9pnet_virtio", "9p", "overlay")
_DIRECTORY, _FILE = 0o040755, 0o100755
_TRAILER = "TRAILER!!!"


def _entry(name: str, mode: int, content: bytes = b"") -> bytes:
    """Return one member of a cpio archive (early-userspace/buffer-format.rst of the kernel)."""
    fields = (0, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name) + 1, 0)
    head = b"070701" + b"".join(b"%08X" % field for field in fields) + name.encode() + b"\0"
    return head + bytes(-len(head) % 4) + content + bytes(-len(content) % 4)


def _modules(kernel: Kernel) -> Iterator[Path]:
    """Return the files of the modules needed, each after those it needs; what is built in has none."""
    base = kernel.modules.parent.parent
    for module in _WANTED:
        done = subprocess.run(
            ["modprobe", "-C", "/dev/null", "-d", base, "-S", kernel.release, "--show-depends", module],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise Unavailable(f"modprobe: {done.stderr.strip()}")
        yield from map(Path, re.findall(r"^insmod (\S+)", done.stdout, re.MULTILINE))


def _unpacked(module: Path) -> bytes:
    content = module.read_bytes()
    return lzma.decompress(content) if module.suffix == ".xz" else content


def build(kernel: Kernel, init: str) -> bytes:
    """Return an archive whose first program is the shell script ``init``; raises Unavailable."""
    busybox = shutil.which("busybox")
    if busybox is None:
        raise Unavailable("busybox is missing: install busybox-static")
    modules = list(dict.fromkeys(_modules(kernel)))
    parts = [_entry(name, _DIRECTORY) for name in ("bin", "dev", "proc", "sys", "modules", "lower", "upper", "root")]
    parts.append(_entry("bin/busybox", _FILE, Path(busybox).read_bytes()))
    parts += [_entry(f"modules/{at:02}.ko", _FILE, _unpacked(module)) for at, module in enumerate(modules)]
    return b"".join([*parts, _entry("init", _FILE, init.encode()), _entry(_TRAILER, 0)])

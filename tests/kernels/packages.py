# SPDX-License-Identifier: Apache-2.0
"""Kernels as Debian packages them: found by apt in a directory of its own, unpacked, not installed."""

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.support.lab import ROOT

CACHE = ROOT / "build" / "kernels"
_META = "linux-image-amd64"
_KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
# Suites to take each kernel from: of the archive, and of its updates for security.
_SUITES = {
    "5.10": (("bullseye",), ("bullseye-security",)),
    "6.1": (("bookworm",), ("bookworm-security",)),
    "newest": (("trixie-backports", "sid"), ()),
}
NAMES = tuple(_SUITES)


class Unavailable(Exception):
    """A kernel cannot be had, or a machine not be run, here; the text says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernel:
    """One unpacked kernel: what ``uname -r`` will say, and where it is."""

    release: str
    folder: Path

    @property
    def image(self) -> Path:
        """Return the file to boot."""
        beside = self.modules / self.release / "vmlinuz"
        return beside if beside.exists() else self.folder / "boot" / f"vmlinuz-{self.release}"

    @property
    def modules(self) -> Path:
        """Return the directory that becomes ``/lib/modules``."""
        here, merged = self.folder / "lib" / "modules", self.folder / "usr" / "lib" / "modules"
        return merged if merged.is_dir() else here


def kernel(name: str) -> Kernel:
    """Return a kernel by its name here, fetched when it is asked for the first time; raises Unavailable."""
    folder = CACHE / name / "root"
    if not folder.is_dir():
        _fetch(name, folder)
    (modules,) = folder.glob("**/lib/modules/*/kernel")
    return Kernel(release=modules.parent.name, folder=folder)


def _run(*command: str, cwd: Path | None = None) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd)
    if done.returncode != 0:
        raise Unavailable(f"{' '.join(command[:1])} failed: {done.stderr.strip()[-500:]}")
    return done.stdout


def mirrors() -> tuple[str, str]:
    """Return where this host has Debian's archive and its security updates from."""
    listed = _run("apt-get", "indextargets", "--format", "$(ORIGIN) $(LABEL) $(REPO_URI)")
    places = {label: uri for origin, label, uri in re.findall(r"^(Debian) (Debian\S*) (\S+)$", listed, re.MULTILINE)}
    archive = os.environ.get("LOXILB_DEBIAN_MIRROR", places.get("Debian"))
    if archive is None:
        raise Unavailable("apt knows no archive of Debian here; name one in LOXILB_DEBIAN_MIRROR")
    return archive, places.get("Debian-Security", archive.rstrip("/") + "-security/")


class _Apt:
    """apt with its own sources and lists; the host's stay as they are."""

    def __init__(self, name: str) -> None:
        self._folder = CACHE / name / "apt"
        for part in ("lists/partial", "cache/archives/partial"):
            (self._folder / part).mkdir(parents=True, exist_ok=True)
        sources = self._folder / "sources.list"
        lines = [
            f"deb [arch=amd64 signed-by={_KEYRING}] {mirror} {suite} main\n"
            for mirror, suites in zip(mirrors(), _SUITES[name], strict=True)
            for suite in suites
        ]
        sources.write_text("".join(lines))
        self._options = (
            f"-oDir::Etc::SourceList={sources}",
            "-oDir::Etc::SourceParts=/dev/null",
            "-oDir::Etc::Preferences=/dev/null",
            "-oDir::Etc::PreferencesParts=/dev/null",
            f"-oDir::State::Lists={self._folder / 'lists'}",
            f"-oDir::Cache={self._folder / 'cache'}",
            "-oAcquire::Languages=none",
            "-oAcquire::IndexTargets::deb::DEP-11::DefaultEnabled=false",
            "-oAPT::Sandbox::User=root",
        )

    def get(self, *words: str, cwd: Path | None = None) -> None:
        _run("apt-get", "-qq", *self._options, *words, cwd=cwd)

    def cache(self, *words: str) -> str:
        return _run("apt-cache", *self._options, *words)

    def depends(self, package: str, pattern: str) -> list[str]:
        """Return the dependencies of ``NAME=VERSION`` whose names match, with the same version."""
        (line, *_) = re.findall(r"^Depends: (.*)$", self.cache("show", package), re.MULTILINE)
        version = package.partition("=")[2]
        return [f"{one}={version}" for one in re.findall(r"(?:^|, |\| )([^ ,]+)", line) if re.fullmatch(pattern, one)]


def _packages(apt: _Apt) -> Sequence[str]:
    """Return the packages of the newest kernel that apt sees; newer suites split it into several."""
    apt.get("update")
    versions = re.findall(r"^ *\S+ \| *(\S+)", apt.cache("madison", _META), re.MULTILINE)
    if not versions:
        raise Unavailable(f"no {_META} in the archive")
    (image,) = apt.depends(f"{_META}={versions[0]}", r"linux-image-\d.*")
    return [image, *apt.depends(image, r"linux-(base|binary|modules)-\d.*")]


def _fetch(name: str, folder: Path) -> None:
    apt = _Apt(name)
    debs, partial = CACHE / name / "debs", folder.with_suffix(".partial")
    for left in (debs, partial):
        shutil.rmtree(left, ignore_errors=True)
        left.mkdir(parents=True)
    apt.get("download", *_packages(apt), cwd=debs)
    for deb in debs.iterdir():
        _run("dpkg-deb", "-x", str(deb), str(partial))
    (modules,) = partial.glob("**/lib/modules/*/kernel")
    _run("depmod", "-b", str(modules.parents[2].parent), modules.parent.name)
    shutil.rmtree(debs)
    partial.rename(folder)

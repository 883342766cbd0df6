# SPDX-License-Identifier: Apache-2.0
"""The object files: both compilers make them, the kernel takes them, and they do not grow unseen."""

import json
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from loxilb.errors import KernelError
from loxilb.kernel.bpf import BpfDataPlane, DataPlaneSettings, builds, loading
from loxilb.kernel.bpf.features import ProgramSet
from loxilb.kernel.bpf.object import BpfObject
from tests.support.bpf import World
from tests.support.lab import ROOT

pytestmark = pytest.mark.must_run
SOURCES = sorted((ROOT / "bpf").glob("*.bpf.c"))
# Those that kernels before Linux 5.17 run, as the Makefile has them; some have a source of their own.
LEGACY = ("base", "egress", "flowcheck", "gc", "movecheck", "tc", "xdp")
COMPILERS = ("clang-14", "clang-19")
RECORD = Path(__file__).with_name("instructions.json")
GROWTH = 1.10
LEGACY_FLAG = "-DLOX_LEGACY"
REFUSED = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
SEC("tc") int refused(struct __sk_buff *ctx)
{
    for (long i = 0; i < 3000; i++)
        asm volatile("" : "+r"(i));
    return *(volatile int *)(long)ctx->mark;
}
char LICENSE[] SEC("license") = "GPL";
"""
MEMORY = 128 << 20


def object_name(source: Path) -> str:
    """Return what is recorded of a source: ``xdp`` of xdp.bpf.c."""
    return source.name.removesuffix(".bpf.c")


def legacy_source(name: str) -> Path:
    """Return what a legacy object is compiled from."""
    own = ROOT / "bpf" / "legacy" / f"{name}.bpf.c"
    return own if own.exists() else ROOT / "bpf" / f"{name}.bpf.c"


def compiled(compiler: str, source: Path, folder: Path, *more: str) -> Path:
    """Compile as the Makefile does, warnings as errors."""
    target = folder / f"{object_name(source)}.bpf.o"
    flags = "-O2 -g -target bpf -mcpu=v3 -Wall -Wextra -Wno-unused-parameter -Werror"
    include = f"-I/usr/include/{platform.machine()}-linux-gnu"
    done = subprocess.run(
        [compiler, *flags.split(), *more, include, "-c", str(source), "-o", str(target)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return target


def fdinfo(descriptor: int) -> dict[str, str]:
    """Return what the kernel tells of a descriptor (proc_pid_fdinfo(5))."""
    lines = Path(f"/proc/self/fdinfo/{descriptor}").read_text().splitlines()
    return dict(line.split(":\t", 1) for line in lines if ":\t" in line)


def instructions(path: Path) -> dict[str, int]:
    """Load an object with small maps; returns how many instructions the verifier went through, by program."""
    with BpfObject(path, rodata=bytes(loading.make_config(DataPlaneSettings()))) as loaded:
        return {name: int(fdinfo(program)["verified_insns"]) for name, program in loaded.programs.items()}


@pytest.mark.parametrize("source", SOURCES, ids=object_name)
@pytest.mark.parametrize("compiler", COMPILERS)
def test_the_kernel_takes_what_a_compiler_makes(compiler: str, source: Path, tmp_path: Path) -> None:
    """The verifier's work is recorded for the older compiler, and may not grow by more than a tenth."""
    assert shutil.which(compiler), f"install {compiler}"

    found = instructions(compiled(compiler, source, tmp_path))

    check_record(object_name(source), found, compiler)


@pytest.mark.parametrize("name", LEGACY)
@pytest.mark.parametrize("compiler", COMPILERS)
def test_the_kernel_takes_the_legacy_programs(compiler: str, name: str, tmp_path: Path) -> None:
    """A newer kernel does not refuse them, either; what they are for is tried there (``make test-kernels``)."""
    found = instructions(compiled(compiler, legacy_source(name), tmp_path, LEGACY_FLAG))

    check_record(f"legacy/{name}", found, compiler)


def check_record(name: str, found: dict[str, int], compiler: str) -> None:
    """Check what the verifier went through against the record."""
    assert all(found.values())
    if compiler == COMPILERS[0]:
        recorded = json.loads(RECORD.read_text())[name]
        assert set(found) == set(recorded)
        assert {program: count for program, count in found.items() if count > recorded[program] * GROWTH} == {}


def test_a_refused_program_shows_the_end_of_what_the_verifier_says(tmp_path: Path) -> None:
    """The cause is there; what comes before it is many times longer than what is kept."""
    source = tmp_path / "refused.bpf.c"
    source.write_text(REFUSED)

    with pytest.raises(KernelError, match="invalid mem access") as refused:
        BpfObject(compiled(COMPILERS[0], source, tmp_path))

    assert len(refused.value.cause) < 1 << 14


@pytest.mark.parametrize("program_set", list(ProgramSet), ids=lambda one: one.value)
def test_objects_loaded_side_by_side_share_no_map_of_their_own(program_set: ProgramSet) -> None:
    """Each would make it for itself."""
    found = {}
    for name in ("base", "tc", "gc"):
        path = loading.object_path(name, program_set)
        with BpfObject(path, rodata=bytes(loading.make_config(DataPlaneSettings()))) as loaded:
            found[name] = set(filter(builds.is_shared, loaded.maps))

    assert found["tc"] & found["gc"] <= found["base"]


@contextmanager
def default_data_plane(world: World) -> Iterator[BpfDataPlane]:
    """Load a data plane of default size, and remove it."""
    data_plane = BpfDataPlane.open(DataPlaneSettings(bpffs=world.pins()))
    try:
        yield data_plane
    finally:
        data_plane.destroy()


def test_all_maps_of_default_size_fit_into_their_budget(world: World) -> None:
    """Counted by the kernel."""
    with default_data_plane(world) as data_plane:
        sizes = {name: int(fdinfo(descriptor)["memlock"]) for name, descriptor in data_plane.descriptors.items()}

    assert sizes["flow4"] >= 64 * DataPlaneSettings().flows4
    assert sum(sizes.values()) <= MEMORY, sizes


def test_adopted_maps_keep_their_size(world: World) -> None:
    """What is asked for later cannot change them, and is not taken for what they hold."""
    settings = DataPlaneSettings(bpffs=world.pins(), flows4=1024, flows6=1024, listeners=2048, sources=1024)
    BpfDataPlane.open(settings).close()
    adopted = BpfDataPlane.open(replace(settings, flows4=4096, listeners=4096, sources=4096))
    try:
        assert [adopted.sizes[name] for name in ("flow4", "listeners4", "sources")] == [4096, 2048, 1024]
    finally:
        adopted.destroy()


def record() -> None:
    """Write the record anew: ``python -m tests.packet.test_objects``."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        counts = {object_name(source): instructions(compiled(COMPILERS[0], source, place)) for source in SOURCES}
        for name in LEGACY:
            path = compiled(COMPILERS[0], legacy_source(name), place, LEGACY_FLAG)
            counts[f"legacy/{name}"] = instructions(path)
    RECORD.write_text(json.dumps(counts, indent=2) + "\n")


if __name__ == "__main__":
    record()

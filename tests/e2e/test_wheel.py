# SPDX-License-Identifier: Apache-2.0
"""The wheel installs where there is no compiler, and runs with no more rights than it needs."""

import shutil
import sys
import venv
from collections.abc import Iterator
from pathlib import Path

import pytest

from loxilb.kernel import netns
from tests.support.lab import ROOT, Lab, Namespace, run

pytestmark = pytest.mark.must_run
_PATIENCE_S = 240
_NEEDED = "+bpf,+net_admin,+perfmon,+net_raw"
_NOBODY = 65534


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the directory of the programs of a clean virtual environment with the wheel in it.

    What the wheel depends on is taken from this environment; a compiler that is called leaves a mark.
    """
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    run([*pip, "wheel", "-q", "--no-deps", "-w", str(folder), str(ROOT)], timeout=_PATIENCE_S)
    (wheel,) = folder.glob("*.whl")
    venv.create(folder / "env", with_pip=False)
    (site,) = (folder / "env").glob("lib/python*/site-packages")
    run([*pip, "install", "-q", "--no-deps", "--no-index", "--target", str(site), str(wheel)], timeout=_PATIENCE_S)
    theirs = Path(next(path for path in sys.path if path.endswith("site-packages")))
    for entry in theirs.iterdir():
        if "loxi" not in entry.name and not (site / entry.name).exists():
            (site / entry.name).symlink_to(entry)
    for script in ("loxilb", "loxicmd"):
        python = folder / "env/bin/python"
        (folder / "env/bin" / script).write_text(
            f"#!{python}\nimport sys\nfrom {script}.__main__ import main\nsys.exit(main())\n"
        )
        (folder / "env/bin" / script).chmod(0o755)
    return folder / "env/bin"


@pytest.fixture
def space(lab: Lab) -> Iterator[Namespace]:
    """Return a namespace whose daemon is taken down afterwards."""
    yield lab.namespace("lb")


def test_the_wheel_carries_the_objects(installed: Path) -> None:
    """And nothing of the tests."""
    (site,) = installed.parent.glob("lib/python*/site-packages")
    for folder in (site / "loxilb/kernel/bpf/objects", site / "loxilb/kernel/bpf/objects/legacy"):
        objects = {path.name for path in folder.iterdir()}
        assert objects >= {"base.bpf.o", "tc.bpf.o", "xdp.bpf.o", "gc.bpf.o"}
    assert not (site / "tests").exists()


@pytest.mark.parametrize("user", ["root", "nobody"])
def test_it_serves_without_compiler_and_without_rights_it_does_not_need(
    installed: Path, space: Namespace, lab: Lab, tmp_path: Path, user: str
) -> None:
    """Root, and a process with four capabilities and no other right."""
    pins, state = tmp_path / "bpf", tmp_path / "state"
    for folder in (pins, state):
        folder.mkdir()
    run(["mount", "-t", "bpf", "bpf", str(pins)])
    lab.undo(run, ["umount", str(pins)])
    command: list[str | Path] = [
        installed / "loxilb",
        "--bpffs",
        pins,
        "--store",
        state / "store.db",
        "--config",
        "none",
    ]
    clean = ["env", "-u", "PYTHONPATH", "PATH=/usr/sbin:/sbin"]
    if user == "nobody":
        host = Path("/run/loxilb") / space.call(netns.identity)
        host.mkdir(parents=True)
        lab.undo(shutil.rmtree, host, True)
        for path in (pins, state, host):
            shutil.chown(path, _NOBODY, _NOBODY)
        # Reading the interpreter below a home that is closed to others is no right that the daemon needs.
        rights = f"--ambient-caps=-all,{_NEEDED},+dac_read_search"
        clean += ["setpriv", f"--reuid={_NOBODY}", f"--regid={_NOBODY}", "--clear-groups"]
        clean += [f"--inh-caps=-all,{_NEEDED},+dac_read_search", rights, "--no-new-privs"]
        clean[3] = "PATH=/usr/sbin:/sbin:/usr/bin"
    lab.undo(space.run, installed / "loxilb", "down", "--bpffs", pins, "--store", state / "store.db")
    daemon = lab.process(space, *clean, *command)

    daemon.wait_line("ready in", deadline=60)
    space.run(installed / "loxicmd", "create", "lb", "20.20.20.1", "--tcp=80:80", "--endpoints=31.31.31.1:1")

    assert "20.20.20.1" in space.run(installed / "loxicmd", "get", "lb")
    assert "20.20.20.1" in space.run("ip", "address", "show", "lo")
    assert space.run("sysctl", "-n", "net.ipv4.ip_forward").strip() == "1"
    assert daemon.stop() == 0

# SPDX-License-Identifier: Apache-2.0
"""Makes the image, runs it, and looks whether clients are served: ``python -m tests.container dist/loxilb-*.whl``."""

import sys
import tempfile
from pathlib import Path

from tests.container.image import build, capabilities, entry_point
from tests.support.lab import Lab, Process
from tests.support.lab_star import PORT, SERVERS4, Star
from tests.support.lab_star import build as build_star
from tests.support.traffic import ask_on, connection

_VIP = "20.20.20.1"
_READY_S = 120
# The image's root becomes that of a mount namespace of its own, with what podman and the run line put into it.
_ENTER = """
    mount --make-rprivate / && mount -t sysfs -o ro sysfs "$0/sys" && mount --bind /sys/fs/bpf "$0/sys/fs/bpf" &&
    mount -t tmpfs tmpfs "$0/run" && mkdir -p /run/loxilb "$0/run/loxilb" &&
    mount --bind /run/loxilb "$0/run/loxilb" && exec chroot "$0" "$@"
"""


class Containers:
    """Containers of one image in the load balancer's namespace."""

    def __init__(self, star: Star, root: Path) -> None:
        """Run the image at ``root``."""
        self._star = star
        rights = ",".join(f"+{one}" for one in capabilities())
        bounds = ("setpriv", f"--bounding-set=-all,{rights}", "--inh-caps=-all", "--no-new-privs")
        self._command = ("unshare", "-m", "sh", "-c", _ENTER, root, *bounds)

    def run(self, *command: str) -> str:
        """Run a command in one, and return what it printed."""
        return self._star.lb.namespace.run(*self._command, *command, timeout=_READY_S)

    def start(self) -> Process:
        """Start the daemon in one."""
        daemon = self._star.lab.process(self._star.lb.namespace, *self._command, entry_point())
        daemon.wait_line("ready in", deadline=_READY_S)
        return daemon


def check(star: Star, containers: Containers) -> None:
    """Serve, be replaced under a connection, and go without a trace; raises AssertionError."""
    compilers = containers.run("sh", "-c", "command -v cc gcc clang || true")
    assert compilers == "", compilers
    star.lab.undo(containers.run, entry_point(), "down")
    first = containers.start()
    rule = ("create", "lb", _VIP, f"--tcp=2020:{PORT}", f"--endpoints={SERVERS4[0]}:1", "--name=web")
    containers.run("loxicmd", *rule)

    def scenario() -> None:
        with connection(_VIP, 2020, timeout=_READY_S) as sock:
            before = ask_on(sock).server
            assert first.stop() == 0
            assert ask_on(sock).server == before
            containers.start()
            assert ask_on(sock).server == before

    star.client.call(scenario)
    assert "web" in containers.run("loxicmd", "get", "lb"), "the store did not outlive the container"


def main(arguments: list[str]) -> int:
    """Return 0 when all is as it should be."""
    wheel = Path(arguments[0])
    # Not in memory: overlayfs takes its layers from a file system that can hold them.
    with tempfile.TemporaryDirectory(dir="build") as folder, Lab(folder=Path(folder).resolve()) as lab:
        root = build(lab, wheel)
        star = build_star(lab, servers=1)
        check(star, Containers(star, root))
    sys.stdout.write("PASSED in a container\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""Hosts with a kernel of their own: User-Mode Linux, a kernel that runs as a process.

The process runs in a container. Its network device is the container's, and its root disk is an overlay, in the
container's files, over a cached image.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from . import access, images, trees
from .errors import LabError
from .hosts import BOOTED, LAB_DIRECTORY, Host, Place
from .run import shorten_output

#: Upper bound of a host's boot time in seconds, on a loaded machine.
BOOT_DEADLINE = 120


class UmlHost(Host):
    """A User-Mode Linux with systemd as PID 1 and *memory* in MiB."""

    def __init__(self, name: str, kind: str, address: str, files: Path, place: Place, memory: int) -> None:
        super().__init__(name, kind, address, files, place)
        self._memory = memory

    def create(self, neighbours: Mapping[str, str], shared: Mapping[Path, str]) -> None:
        image = f"{LAB_DIRECTORY}/uml"
        self._run(
            neighbours,
            [
                "--cap-add=NET_ADMIN",
                "--device=/dev/net/tun",
                # The kernel runs programs from a file with the host's memory.
                "--tmpfs=/dev/shm:exec,mode=1777",
                f"--volume={images.build_uml_image()}:{image}:ro",
            ],
            trees.build_tree(self.kind),
            [
                "/usr/local/sbin/lab-host",
                f"mem={self._memory}M",
                "seccomp=auto",
                f"ubd0=/var/tmp/root.cow,{image}/root.img",
                "root=/dev/ubda",
                "rw",
                "quiet",
                # Debian's kernels, other than this one, don't enable SELinux by default.
                "selinux=0",
                "init=/usr/local/sbin/lab-boot",
                "hostfs=/etc",
                "con=null",
                "con0=null,fd:1",
            ],
        )

    def wait_ready(self) -> None:
        wait = [sys.executable, "-c", access.WAIT_FOR_SSH, self.address, str(BOOT_DEADLINE)]
        if subprocess.run(wait, stderr=subprocess.DEVNULL, check=False, timeout=BOOT_DEADLINE + 30).returncode:
            console = self._podman("logs", "--tail", "20", self.container, check=False).stdout
            raise LabError(
                f"Host {self.name!r} wasn't up after {BOOT_DEADLINE} seconds, its console ends with: "
                f"{shorten_output(console, lines=8)}"
            )
        self.execute("sh", "-c", BOOTED, deadline=BOOT_DEADLINE)
        if failed := self.execute("systemctl", "--failed", "--plain", "--no-legend").stdout.strip():
            raise LabError(f"Host {self.name!r} came up with failed units: {shorten_output(failed)}.")

    def execute(
        self, *argv: str, stdin: bytes = b"", deadline: float = 60, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        command = shlex.join(argv)
        return access.ssh(
            self._place.ssh_config, self._podman.lab, self.name, command, stdin=stdin, deadline=deadline, check=check
        )


__all__ = ["UmlHost"]

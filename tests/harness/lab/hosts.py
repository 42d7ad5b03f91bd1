# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""Hosts: the interface of every kind, and the kind that is a container with systemd as PID 1."""

from __future__ import annotations

import subprocess
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path

from . import machine_python, trees
from .errors import LabError
from .podman import Podman
from .run import shorten_output

#: Directory in a host with the lab's files: those of the host, and the guests' images.
LAB_DIRECTORY = "/usr/local/share/granary-lab"


#: Program for the host: wait for the end of systemd's start. Until its bus is ready, systemctl prints nothing or
#: "offline".
_BOOTED = (
    'until state=$(systemctl is-system-running --wait 2>/dev/null); [ "$state" = running ] || [ "$state" = degraded ]; '
    'do sleep 0.05; done; echo "$state"'
)


#: systemd shares all mounts with later namespaces, but not in a container. virtiofsd needs the mounts of the host.
_INIT = "mount --make-rshared / && exec /sbin/init"


class Host(ABC):
    """A machine of the lab. After ``wait_ready`` root can log in by ssh at *address*."""

    def __init__(self, name: str, kind: str, address: str, files: Path) -> None:
        self.name = name
        self.kind = kind
        self.address = address
        #: Directory of this host's files on the machine: host key, authorized keys, the guests' initramfs.
        self.files = files

    @abstractmethod
    def start(self, neighbours: Mapping[str, str], shared: Mapping[Path, str]) -> None:
        """Start the host with *neighbours* (names and addresses) in /etc/hosts and each *shared* directory read-only at
        its path.
        """

    @abstractmethod
    def wait_ready(self) -> None:
        """Return when sshd and the host's services are ready. Raises :class:`LabError`."""

    @abstractmethod
    def execute(
        self, *argv: str, stdin: bytes = b"", deadline: float = 60, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run a command as root in the host. Raises :class:`LabError` for a failed command (with *check*)."""

    @abstractmethod
    def running(self) -> bool:
        """Return True if the host is up."""


class ContainerHost(Host):
    """A podman container on an overlay over a cached root tree."""

    def __init__(self, name: str, kind: str, address: str, files: Path, podman: Podman, network: str) -> None:
        super().__init__(name, kind, address, files)
        self._podman = podman
        self._network = network
        self.container = f"{network}-{name}"

    def start(self, neighbours: Mapping[str, str], shared: Mapping[Path, str]) -> None:
        directories = {self.files: f"{LAB_DIRECTORY}/host", **shared}
        key = self.files / "ssh_host_ed25519_key"
        self._podman(
            "run",
            "--detach",
            "--systemd=always",
            "--privileged",
            "--name",
            self.container,
            "--hostname",
            self.name,
            "--label",
            self._podman.label,
            # A fixed address needs a fixed MAC: with another one, the neighbours' stale ARP entries cost half a minute
            # after a restart.
            "--network",
            self._network,
            "--ip",
            self.address,
            "--mac-address",
            _mac(self.address),
            *(f"--add-host={name}:{address}" for name, address in neighbours.items() if name != self.name),
            *(f"--volume={source}:{path}:ro" for source, path in (directories | machine_python.list_files()).items()),
            f"--volume={key}:/etc/ssh/{key.name}:ro",
            f"--volume={key}.pub:/etc/ssh/{key.name}.pub:ro",
            f"--volume={self.files / 'authorized_keys'}:/etc/ssh/lab_authorized_keys:ro",
            "--rootfs",
            f"{trees.build_tree(self.kind)}:O",
            "/bin/sh",
            "-c",
            _INIT,
        )

    def wait_ready(self) -> None:
        state = self.execute("sh", "-c", _BOOTED).stdout
        failed = self.execute("systemctl", "--failed", "--plain", "--no-legend", check=False).stdout
        if failed.strip() or self.execute("virsh", "--connect", "qemu:///system", "version", check=False).returncode:
            raise LabError(f"Host {self.name!r} came up {shorten_output(state)}: {shorten_output(failed)}.")

    def execute(
        self, *argv: str, stdin: bytes = b"", deadline: float = 60, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        return self._podman("exec", "--interactive", self.container, *argv, stdin=stdin, deadline=deadline, check=check)

    def running(self) -> bool:
        return (
            self._podman("inspect", "--format", "{{.State.Running}}", self.container, check=False).stdout.strip()
            == "true"
        )


def _mac(address: str) -> str:
    """Return a locally administered MAC address that follows from an IPv4 address."""
    return ":".join(["02", "6c", *(f"{int(part):02x}" for part in address.split("."))])


__all__ = ["ContainerHost", "Host", "LAB_DIRECTORY"]

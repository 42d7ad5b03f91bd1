# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""Hosts: the interface of every kind, and the kind that is a container with systemd as PID 1.

A host of every kind is a podman container on an overlay over a cached root tree. Its files survive a kill.
"""

from __future__ import annotations

import json
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from . import access, machine_python, trees
from .errors import LabError
from .podman import Podman
from .run import run, shorten_output

#: Directory in a host with the lab's files: those of the host, and the guests' images.
LAB_DIRECTORY = "/usr/local/share/granary-lab"


#: Program for the host: wait for the end of systemd's start. Until its bus is ready, systemctl prints nothing or
#: "offline".
BOOTED = (
    'until state=$(systemctl is-system-running --wait 2>/dev/null); [ "$state" = running ] || [ "$state" = degraded ]; '
    'do sleep 0.05; done; echo "$state"'
)


#: systemd shares all mounts with later namespaces, but not in a container. virtiofsd needs the mounts of the host.
_INIT = "mount --make-rshared / && exec /sbin/init"

#: Upper bound of a host's shutdown in seconds. systemd gives a service 90 seconds to stop.
_POWER_OFF = 180


@dataclass(frozen=True)
class Place:
    """The place of a host in its lab: podman, the network, the lab's ssh_config, and *kvm*, True if KVM runs a
    kernel.
    """

    podman: Podman
    network: str
    ssh_config: Path
    kvm: bool = False


class Host(ABC):
    """A machine of the lab. After ``wait_ready`` root can log in by ssh at *address*."""

    def __init__(self, name: str, kind: str, address: str, files: Path, place: Place) -> None:
        self.name = name
        self.kind = kind
        self.address = address
        #: Directory of this host's files on the machine: host key, authorized keys, the guests' initramfs.
        self.files = files
        self.container = f"{place.network}-{name}"
        self._place = place
        self._podman = place.podman

    @abstractmethod
    def create(self, neighbours: Mapping[str, str], shared: Mapping[Path, str]) -> None:
        """Create and start the host with *neighbours* (names and addresses) in /etc/hosts and each *shared* directory
        read-only at its path.
        """

    @abstractmethod
    def wait_ready(self) -> None:
        """Return when sshd and the host's services are ready. Raises :class:`LabError`."""

    @abstractmethod
    def execute(
        self, *argv: str, stdin: bytes = b"", deadline: float = 60, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run a command as root in the host. Raises :class:`LabError` for a failed command (with *check*)."""

    def state(self) -> str:
        """Return podman's word for the state: "running", "paused", "exited", "" without a container."""
        return self._podman("inspect", "--format", "{{.State.Status}}", self.container, check=False).stdout.strip()

    def running(self) -> bool:
        """Return True if the host is up."""
        return self.state() == "running"

    # Faults. Each raises LabError where the state of the host doesn't allow it.

    def pause(self) -> None:
        """Stop all processes, and the kernel if the host has one, without their notice (freezer of cgroups(7))."""
        self._podman("pause", self.container)

    def resume(self) -> None:
        """Continue a paused host."""
        self._podman("unpause", self.container)

    def cut(self) -> None:
        """Cut the host off the network. The host sees an unplugged cable."""
        run(["ip", "link", "set", "dev", self._interface(), "down"])

    def join(self) -> None:
        """Connect the host to the network again."""
        run(["ip", "link", "set", "dev", self._interface(), "up"])

    def kill(self) -> None:
        """Kill all processes, and the kernel if the host has one, like a power failure. Unsynced data of a kernel of
        its own is lost.
        """
        if self.state() == "paused":
            self.resume()
        self._podman("kill", "--signal", "KILL", self.container)
        self._wait_end()

    def start(self) -> None:
        """Start a host that was killed or that has shut down, and return when it is ready."""
        self._podman("start", self.container)
        self.wait_ready()

    def reboot(self) -> None:
        """Shut the host down, start it, and return when it is ready."""
        # The connection can break before its command ends.
        self.execute("systemctl", "poweroff", check=False)
        self._wait_end()
        self.start()

    def _wait_end(self) -> None:
        self._podman("wait", self.container, deadline=_POWER_OFF)
        # The shared connection would let later commands wait for the dead host.
        access.close_connection(self._place.ssh_config, self.name)

    def _interface(self) -> str:
        """Return the machine's end of the host's network cable."""
        pid = self._podman("inspect", "--format", "{{.State.Pid}}", self.container).stdout.strip()
        if pid == "0":
            raise LabError(f"Host {self.name!r} isn't running: 'lab host start {self.name}' starts it.")
        inside = run(["nsenter", "--target", pid, "--net", "ip", "-json", "link", "show", "dev", "eth0"]).stdout
        links = json.loads(run(["ip", "-json", "link", "show"]).stdout)
        index = json.loads(inside)[0]["link_index"]
        return next(str(link["ifname"]) for link in links if link["ifindex"] == index)

    def _run(self, neighbours: Mapping[str, str], options: list[str], tree: Path, command: list[str]) -> None:
        """Run the container with the options of every kind, and *options*."""
        key = self.files / "ssh_host_ed25519_key"
        self._podman(
            "run",
            "--detach",
            "--name",
            self.container,
            "--hostname",
            self.name,
            "--label",
            self._podman.label,
            # A fixed address needs a fixed MAC: with another one, the neighbours' stale ARP entries cost half a minute
            # after a restart.
            "--network",
            self._place.network,
            "--ip",
            self.address,
            "--mac-address",
            _mac(self.address),
            *(f"--add-host={name}:{address}" for name, address in neighbours.items() if name != self.name),
            f"--volume={key}:/etc/ssh/{key.name}:ro",
            f"--volume={key}.pub:/etc/ssh/{key.name}.pub:ro",
            f"--volume={self.files / 'authorized_keys'}:/etc/ssh/lab_authorized_keys:ro",
            *options,
            "--rootfs",
            f"{tree}:O",
            *command,
        )


class ContainerHost(Host):
    """A privileged container with systemd as PID 1, for libvirt."""

    def create(self, neighbours: Mapping[str, str], shared: Mapping[Path, str]) -> None:
        mounted = {self.files: f"{LAB_DIRECTORY}/host", **shared, **machine_python.list_files()}
        self._run(
            neighbours,
            [
                "--systemd=always",
                "--privileged",
                *(f"--volume={source}:{path}:ro" for source, path in mounted.items()),
            ],
            trees.build_tree(self.kind),
            ["/bin/sh", "-c", _INIT],
        )

    def wait_ready(self) -> None:
        state = self.execute("sh", "-c", BOOTED).stdout
        failed = self.execute("systemctl", "--failed", "--plain", "--no-legend", check=False).stdout
        if failed.strip() or self.execute("virsh", "--connect", "qemu:///system", "version", check=False).returncode:
            raise LabError(f"Host {self.name!r} came up {shorten_output(state)}: {shorten_output(failed)}.")
        if not self._place.kvm:
            # libvirt in the host would offer a KVM that hangs.
            self.execute("rm", "-f", "/dev/kvm")

    def execute(
        self, *argv: str, stdin: bytes = b"", deadline: float = 60, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        return self._podman("exec", "--interactive", self.container, *argv, stdin=stdin, deadline=deadline, check=check)


def _mac(address: str) -> str:
    """Return a locally administered MAC address that follows from an IPv4 address."""
    return ":".join(["02", "6c", *(f"{int(part):02x}" for part in address.split("."))])


__all__ = ["BOOTED", "ContainerHost", "Host", "LAB_DIRECTORY", "Place"]

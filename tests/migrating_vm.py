# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""A VM that migrates between two hypervisors, one of which is the front-end, for the tests of vm_migrate."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from typing import Any

Execute = Callable[..., str]
Tasks = Callable[..., list[dict[str, Any]]]

HOSTS = ("hv1", "hv2")
STORE = "/var/lib/one/datastores"
ROOT_IMAGE = "/var/tmp/root.img"
CATALOG = "/var/lib/one/vmstore/catalog.sqlite"

#: Program that sends a signal to the process with the locks of VMs, which is the module. The arguments are the lock and
#: the name of the signal.
SIGNAL = """
import glob, os, signal, sys
for link in glob.glob("/proc/[0-9]*/fd/*"):
    try:
        if os.readlink(link) == sys.argv[1]:
            process = int(link.split("/")[2])
            os.kill(process, getattr(signal, sys.argv[2]))
            print(process)
    except OSError:
        pass
"""


def connect(execute: Execute) -> None:
    """Let root of each host reach the other one over ssh, and create the directories of the catalog and datastores."""
    for host in HOSTS:
        execute(host, "sh", "-c", "test -f ~/.ssh/id_ed25519 || ssh-keygen -q -t ed25519 -N '' -f ~/.ssh/id_ed25519")
        execute(host, "sh", "-c", "getent passwd oneadmin || useradd --system --home-dir /var/lib/one oneadmin")
        execute(host, "mkdir", "--parents", STORE)
    for host, other in itertools.permutations(HOSTS):
        key = execute(host, "cat", "/root/.ssh/id_ed25519.pub")
        execute(other, "sh", "-c", "cat >> ~/.ssh/authorized_keys", stdin=key)
        execute(host, "sh", "-c", f"ssh-keyscan -t ed25519 {other} >> ~/.ssh/known_hosts")
    options = ["--directory", "--owner=oneadmin", "--group=oneadmin", "--mode=0750"]
    execute("hv1", "install", *options, "/var/lib/one/vmstore")


def create_site(tasks: Tasks) -> None:
    """Create a catalog on hv1 with the image ``base``, and with a system datastore of each kind."""
    image = {"name": "base", "datastore": "default", "type": "os", "size": "64M", "format": "qcow2"}
    made = tasks(
        ("datastore", {"name": "copied", "type": "system", "tm_driver": "ssh"}, False),
        ("datastore", {"name": "same", "type": "system", "tm_driver": "shared"}, False),
        ("image", image, False),
    )
    assert [one.get("msg") for one in made] == [None] * 3


def prepare_guest(execute: Execute, name: str, devices: str = "") -> None:
    """Let a guest of the lab run on both hosts: without disks, with further devices, and with the same boot files."""
    for host in HOSTS:
        execute(host, "mkdir", "-p", "/var/lib/libvirt/dnsmasq")
    execute("hv2", "virsh", "net-define", "/dev/stdin", stdin=execute("hv1", "virsh", "net-dumpxml", "lab"))
    execute("hv2", "virsh", "net-start", "lab")
    definition = execute("hv1", "virsh", "dumpxml", "--inactive", name)
    initrd = re.search("<initrd>(.*)</initrd>", definition)[1]
    for host in HOSTS:
        execute(host, "sh", "-c", "base64 -d > /srv/initrd", stdin=execute("hv1", "base64", initrd))
    execute("hv1", "virsh", "define", "/dev/stdin", stdin=definition.replace(initrd, "/srv/initrd"))
    execute("hv1", "virsh", "detach-disk", name, "vda", "--config")
    if devices:
        execute("hv1", "virsh", "attach-device", name, "/dev/stdin", "--config", stdin=devices)
    execute("hv1", "cp", "--sparse=always", "/usr/local/share/granary-lab/guest/root.img", ROOT_IMAGE)


class Vm:
    """A VM with its domain on one of the hosts."""

    def __init__(self, execute: Execute, tasks: Tasks, name: str, result: dict[str, Any]) -> None:
        self.run, self.tasks, self.name = execute, tasks, name
        self.domain: str = result["vm"]["domain"]
        self.directory: str = result["vm"]["directory"]

    def virsh(self, host: str, *arguments: str, check: bool = True) -> str:
        return self.run(host, "virsh", *arguments, check=check)

    def migrate(self, host: str, *, check: bool = False, **options: Any) -> dict[str, Any]:
        return self.tasks(("vm_migrate", {"vm": self.name, "host": host, **options}, check))[0]

    def write(self, host: str, disk: int, image_format: str, where: str = "1M 64k") -> None:
        path = f"{self.directory}/disk.{disk}"
        self.run(host, "qemu-io", "-f", image_format, "-c", f"write -P {disk + 7} {where}", path)

    def require_data(self, host: str, disk: int, image_format: str, where: str = "1M 64k") -> None:
        path = f"{self.directory}/disk.{disk}"
        command = ["qemu-io", "-r", "-U", "-f", image_format, "-c", f"read -P {disk + 7} {where}", path]
        assert "Pattern verification failed" not in self.run(host, *command)

    def definition(self, host: str) -> list[str]:
        """Return the lines of the definition with its secrets. libvirt indents metadata of a migrated domain anew."""
        text = self.virsh(host, "dumpxml", "--inactive", "--security-info", self.domain)
        return [line.strip() for line in text.splitlines()]

    def exists(self, host: str) -> bool:
        return self.run(host, "ls", "-d", self.directory, check=False) != ""

    def state(self, host: str) -> str:
        """Return the state of the domain, or an empty text without a domain."""
        return self.virsh(host, "domstate", self.domain, check=False).strip()

    def has_autostart(self, host: str) -> bool:
        return bool(re.search(r"^Autostart: +enable$", self.virsh(host, "dominfo", self.domain), re.MULTILINE))

    def recorded_host(self) -> str:
        program = (
            "import sqlite3, sys; print(sqlite3.connect(sys.argv[1]).execute(sys.argv[2], sys.argv[3:]).fetchone()[0])"
        )
        query = "SELECT host FROM vm WHERE name = ?"
        return self.run("hv1", "python3", "-c", program, CATALOG, query, self.name).strip()

    def require_on(self, host: str, state: str = "running") -> None:
        """Require that the VM is on a host, and that the other host has nothing of it."""
        [other] = set(HOSTS) - {host}
        assert (self.state(host), self.state(other)) == (state, "")
        assert (self.exists(host), self.exists(other)) == (True, False)
        assert self.recorded_host() == host
        assert self.run(host, "find", STORE, "-name", ".migrating") == ""
        assert re.search(r"^Persistent: +yes$", self.virsh(host, "dominfo", self.domain), re.MULTILINE)


__all__ = [
    "CATALOG",
    "HOSTS",
    "ROOT_IMAGE",
    "SIGNAL",
    "STORE",
    "Execute",
    "Tasks",
    "Vm",
    "connect",
    "create_site",
    "prepare_guest",
]

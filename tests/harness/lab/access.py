# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""The files of a lab's user: keys, ssh_config(5), known_hosts, an Ansible inventory."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from .run import MARK, run

#: Python program: return after the banner of the sshd at an address, or fail after so many seconds.
WAIT_FOR_SSH = """
import socket, sys, time
end = time.monotonic() + float(sys.argv[2])
while time.monotonic() < end:
    try:
        with socket.create_connection((sys.argv[1], 22), timeout=1) as connection:
            connection.settimeout(max(0.1, end - time.monotonic()))
            if connection.recv(4) == b"SSH-":
                sys.exit()
    except OSError:
        time.sleep(0.1)
sys.exit("no ssh banner")
"""


@dataclass(frozen=True)
class Machine:
    """A host or a guest for ssh; *through* is the name of the host on the way to a guest, "" for a host."""

    name: str
    kind: str
    address: str
    through: str = ""


def ssh(
    config: Path, lab: str, name: str, *command: str, deadline: float = 60, stdin: bytes = b"", check: bool = True
) -> subprocess.CompletedProcess[str]:
    """Run a command line (as ssh(1) takes it) on the machine called *name*. Raises :class:`LabError`."""
    return run(
        ["ssh", "-F", str(config), "--", name, *command],
        deadline=deadline,
        stdin=stdin,
        check=check,
        env={MARK: lab},
    )


def close_connection(config: Path, name: str) -> None:
    """Close the connection that ssh keeps open to the machine called *name*."""
    run(["ssh", "-F", str(config), "-O", "exit", "--", name], check=False)


def make_key(path: Path) -> None:
    """Create an ed25519 key pair at *path* and *path*.pub."""
    run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", path.name, "-f", str(path)])


def format_known_host(name: str, public_key: str) -> str:
    """Return a line of known_hosts for the machine called *name* in ssh_config."""
    return f"{name} {' '.join(public_key.split()[:2])}\n"


def format_ssh_config(machines: Mapping[str, Machine], directory: Path, sockets: Path) -> str:
    """Return an ssh_config(5) for *machines* with the files in *directory*; connections stay open by *sockets*."""
    parts = []
    for machine in machines.values():
        lines = [f"HostName {machine.address}", f"HostKeyAlias {machine.name}"]
        lines += [f"ProxyJump {machine.through}"] if machine.through else []
        parts.append(f"Host {machine.name}\n" + "".join(f"    {line}\n" for line in lines))
    parts.append(
        "Host *\n"
        + "".join(
            f"    {line}\n"
            for line in (
                "User root",
                "Port 22",
                f'IdentityFile "{directory}/key"',
                "IdentitiesOnly yes",
                f'UserKnownHostsFile "{directory}/known_hosts"',
                "GlobalKnownHostsFile /dev/null",
                "StrictHostKeyChecking yes",
                "BatchMode yes",
                "LogLevel ERROR",
                "ConnectTimeout 20",
                "ControlMaster auto",
                "ControlPersist 120",
                f"ControlPath {sockets}/%C",
            )
        )
    )
    return "\n".join(parts)


def format_inventory(machines: Mapping[str, Machine], config: Path) -> str:
    """Return an Ansible inventory in YAML with the groups hosts and guests and one group per kind."""
    groups: dict[str, dict[str, dict[str, dict[str, str]]]] = {"hosts": {"hosts": {}}, "guests": {"hosts": {}}}
    for machine in machines.values():
        variables = {
            "ansible_host": machine.name,
            "ansible_user": "root",
            "ansible_python_interpreter": "/usr/bin/python3",
        }
        if machine.through:
            variables |= {"lab_host": machine.through, "lab_domain": machine.name}
        groups["guests" if machine.through else "hosts"]["hosts"][machine.name] = variables
        groups.setdefault(machine.kind, {"hosts": {}})["hosts"][machine.name] = {}
    # With its default ansible_ssh_args, Ansible would open connections in the user's home, and these outlive the lab.
    common = {"ansible_ssh_common_args": f"-F '{config}'", "ansible_ssh_args": "-o BatchMode=yes"}
    return yaml.safe_dump({"all": {"vars": common, "children": groups}}, sort_keys=False)


__all__ = [
    "Machine",
    "WAIT_FOR_SSH",
    "close_connection",
    "format_inventory",
    "format_known_host",
    "format_ssh_config",
    "make_key",
    "ssh",
]

# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""The files a user works with: keys, ssh_config(5), known_hosts, an Ansible inventory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from .run import run


@dataclass(frozen=True)
class Machine:
    """A host or a guest as ssh sees it; *through* names the host that a guest is reached through, "" for a host."""

    name: str
    kind: str
    address: str
    through: str = ""


def make_key(path: Path) -> None:
    """Make an ed25519 key pair at *path* and *path*.pub."""
    run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", path.name, "-f", str(path)])


def known_host(name: str, public_key: str) -> str:
    """A line of known_hosts for the machine that ssh knows as *name*."""
    return f"{name} {' '.join(public_key.split()[:2])}\n"


def ssh_config(machines: Mapping[str, Machine], directory: Path, sockets: Path) -> str:
    """The text of an ssh_config(5) that reaches *machines* with the files in *directory* and keeps connections open by
    *sockets*.
    """
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


def inventory(machines: Mapping[str, Machine], config: Path) -> str:
    """An Ansible inventory in YAML with the groups hosts and guests and one per kind."""
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
    # Without ansible_ssh_args Ansible would put connections of its own into the user's home, which outlive the lab.
    common = {"ansible_ssh_common_args": f"-F '{config}'", "ansible_ssh_args": "-o BatchMode=yes"}
    return yaml.safe_dump({"all": {"vars": common, "children": groups}}, sort_keys=False)


__all__ = ["Machine", "inventory", "known_host", "make_key", "ssh_config"]

# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""Files and programs of hosts on this machine with a real sshd(8), and of an ssh(1) that finds them."""

from __future__ import annotations

import shlex
import shutil
import socket
import subprocess
import time
from pathlib import Path

#: Search path of programs on hosts.
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

#: Name of all hosts in known_hosts.
ALIAS = "host"


def find_program(name: str, package: str) -> str:
    found = shutil.which(name, path=PATH)
    assert found, f"{name} is not installed: apt-get install {package}"
    return found


def make_key(path: Path) -> str:
    """Create a key, and return the line of its public key."""
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True)
    return path.with_name(f"{path.name}.pub").read_text()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


def write_client(directory: Path, hosts: str, *, key: str = "", user: str = "") -> Path:
    """Write the configuration ``client`` and known_hosts of ssh(1), and return the directory of an ssh(1) that uses
    them. ssh(1) would otherwise read the configuration in the home directory of /etc/passwd.

    :arg directory: has the host key ``host``.
    :arg hosts: the part of the configuration about single hosts. Unreachable ones begin with ``dead``.
    :arg key: name of the key for hosts without one.
    """
    (directory / "known_hosts").write_text(f"{ALIAS} {(directory / 'host.pub').read_text()}")
    options = {
        "HostName": "127.0.0.1",
        "HostKeyAlias": ALIAS,
        "UserKnownHostsFile": str(directory / "known_hosts"),
        "IdentitiesOnly": "yes",
        # The default key exchange, a post-quantum one, takes most of the CPU time of a connection.
        "KexAlgorithms": "curve25519-sha256",
        **({"IdentityFile": str(directory / key)} if key else {}),
        **({"User": user} if user else {}),
    }
    lines = "".join(f"  {name} {value}\n" for name, value in options.items())
    (directory / "client").write_text(f"{hosts}Host dead*\n  Port 1\nHost *\n{lines}")
    (binaries := directory / "bin").mkdir(exist_ok=True)
    command = shlex.join([find_program("ssh", "openssh-client"), "-F", f"{directory}/client"])
    (binaries / "ssh").write_text(f'#!/bin/sh\nexec {command} "$@"\n')
    (binaries / "ssh").chmod(0o755)
    return binaries


def server_command(directory: Path, *options: str, port: int = 0, name: str = "server") -> list[str]:
    """Write the configuration of an sshd(8), and return the command of its server. Without a port, the command serves
    one connection on standard input.

    :arg directory: has the host key ``host`` and authorized_keys.
    :arg options: further lines of the configuration.
    :arg name: name of the configuration. The log is called like it, with ".log".
    """
    lines = [
        *([f"Port {port}", "ListenAddress 127.0.0.1"] if port else []),
        f"HostKey {directory}/host",
        f"AuthorizedKeysFile {directory}/authorized_keys",
        "PidFile none",
        "UsePAM no",
        "StrictModes no",
        "PrintMotd no",
        "MaxStartups 100",
        *options,
    ]
    (directory / name).write_text("".join(f"{line}\n" for line in lines))
    sshd = find_program("sshd", "openssh-server")
    return [sshd, "-D" if port else "-i", "-f", f"{directory}/{name}", "-E", f"{directory}/{name}.log"]


def wait_for_server(port: int, server: subprocess.Popen[bytes]) -> None:
    """Wait until a server listens."""
    deadline = time.monotonic() + 30
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except ConnectionRefusedError:
            assert server.poll() is None and time.monotonic() < deadline, "sshd did not start"
            time.sleep(0.01)

# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""BRIDGE_LIST: an image whose directory is on another host, which the front-end reaches over ssh.

The host is a real sshd with a file system of its own.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import (
    InvalidInput,
    PathNotAllowed,
)
from refusal import require_failure

BRIDGE = "bridge.example"

# A mount namespace has the ~/.ssh of the test, and the /run/sshd that sshd needs.
AS_CLIENT = 'mount --bind "$1" /root/.ssh && shift && exec "$@"'
# Another mount namespace has the /srv of the bridge.
AS_SERVER = 'mkdir -p /run/sshd && mount --bind "$1" /srv && shift && exec "$@"'


@dataclass
class Bridge:
    port: int
    log: Path
    srv: Path

    def connections(self) -> int:
        """Return the number of logins."""
        return self.log.read_text().count("Accepted publickey for root")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def wait_for(port: int, server: subprocess.Popen) -> None:
    deadline = time.monotonic() + 30
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except ConnectionRefusedError:
            if server.poll() is not None or time.monotonic() > deadline:
                raise


@pytest.fixture
def bridge(virtiofs, tmp_path: Path) -> Iterator[Bridge]:
    sshd = shutil.which("sshd", path="/usr/sbin:/usr/bin")
    if sshd is None:
        pytest.fail("sshd is not installed: apt-get install openssh-server")
    for name in ("client", "server", "srv"):
        (tmp_path / name).mkdir(mode=0o700)
    for name in ("client/key", "server/key"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / name], check=True)
    shutil.copy(tmp_path / "client" / "key.pub", tmp_path / "server" / "authorized_keys")
    found = Bridge(free_port(), tmp_path / "server" / "log", tmp_path / "srv")
    (tmp_path / "client" / "config").write_text(
        f"Host {BRIDGE}\n  HostName 127.0.0.1\n  Port {found.port}\n  User root\n  IdentityFile ~/.ssh/key\n"
        f"  UserKnownHostsFile ~/.ssh/known_hosts\n  HostKeyAlias {BRIDGE}\nHost refused.example\n  HostName "
        "127.0.0.1\n  Port 1\n"
    )
    (tmp_path / "client" / "known_hosts").write_text(f"{BRIDGE} {(tmp_path / 'server' / 'key.pub').read_text()}")
    (tmp_path / "server" / "config").write_text(
        f"Port {found.port}\nListenAddress 127.0.0.1\nHostKey {tmp_path}/server/key\nPidFile none\nUsePAM "
        "no\nStrictModes no\nPermitRootLogin yes\n"
        f"AuthorizedKeysFile {tmp_path}/server/authorized_keys\nPrintMotd no\n"
    )
    command = [sshd, "-D", "-f", str(tmp_path / "server" / "config"), "-E", str(found.log)]
    server = subprocess.Popen(["unshare", "-m", "sh", "-ec", AS_SERVER, "sh", str(found.srv), *command])
    try:
        wait_for(found.port, server)
        os.makedirs("/root/.ssh", mode=0o700, exist_ok=True)
        virtiofs.enter = ("unshare", "-m", "sh", "-ec", AS_CLIENT, "sh", str(tmp_path / "client"))
        yield found
    finally:
        server.terminate()
        server.wait()


def test_the_directory_of_another_host(virtiofs, bridge: Bridge) -> None:
    data = bridge.srv / "big $(touch injected) 'data'"
    data.mkdir()
    (data / "file").write_bytes(os.urandom(7 * 2**20))
    os.symlink(data.name, bridge.srv / "link")
    virtiofs.run("datastore", name="fs", bridge_list=["refused.example", BRIDGE])
    path = f"/srv/{data.name}"
    assert not os.path.exists(path)
    before = bridge.connections()
    result = virtiofs.run("image", name="remote", datastore="fs", path="/srv/link")
    assert not result["failed"], result
    assert bridge.connections() == before + 1
    used = int(subprocess.run(["du", "-s", "-B1", data], capture_output=True, text=True, check=True).stdout.split()[0])
    assert virtiofs.query("SELECT path, size_mb FROM image") == [(path, -(-used // 2**20))]
    assert not (bridge.srv / "injected").exists()
    assert not virtiofs.run("image", name="remote", datastore="fs", path=path)["changed"]


def test_what_the_bridge_can_not_give(virtiofs, bridge: Bridge) -> None:
    os.symlink("/etc", bridge.srv / "etc")
    virtiofs.run("datastore", name="fs", bridge_list=[BRIDGE, "refused.example"])
    new = {"name": "x", "datastore": "fs"}
    missing, restricted = virtiofs.failures(
        ("image", {**new, "path": "/srv/none"}), ("image", {**new, "path": "/srv/etc"})
    )
    require_failure(missing, InvalidInput, option="path", names=["'/srv/none'", BRIDGE, "refused.example"])
    require_failure(restricted, PathNotAllowed, option="path", names=["'/etc'"])
    before = bridge.connections()
    virtiofs.failures(("image", {**new, "path": "/etc/nowhere"}))
    assert bridge.connections() == before  # without a connection

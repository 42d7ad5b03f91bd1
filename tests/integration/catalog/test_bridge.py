# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""BRIDGE_LIST: an image whose directory is on another host, which the front-end reaches over ssh.

The host is a real sshd with a file system of its own.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import (
    InvalidInput,
    PathNotAllowed,
)
from refusal import require_failure
from ssh_hosts import free_port, make_key, server_command, wait_for_server, write_client

BRIDGE = "bridge.example"

# A mount namespace has the /srv of the bridge, and the /run/sshd that sshd needs.
AS_SERVER = 'mkdir -p /run/sshd && mount --bind "$1" /srv && shift && exec "$@"'


@dataclass
class Bridge:
    log: Path
    srv: Path

    def connections(self) -> int:
        """Return the number of logins."""
        return self.log.read_text().count("Accepted publickey for root")


@pytest.fixture
def bridge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bridge]:
    ssh, srv = tmp_path / "ssh", tmp_path / "srv"
    for directory in (ssh, srv):
        directory.mkdir(mode=0o700)
    make_key(ssh / "host")
    (ssh / "authorized_keys").write_text(make_key(ssh / "key"))
    port = free_port()
    hosts = f"Host {BRIDGE}\n  Port {port}\nHost refused.example\n  Port 1\n"
    monkeypatch.setenv("PATH", f"{write_client(ssh, hosts, key='key', user='root')}:{os.environ['PATH']}")
    command = server_command(ssh, "PermitRootLogin yes", port=port)
    server = subprocess.Popen(["unshare", "-m", "sh", "-ec", AS_SERVER, "sh", str(srv), *command])
    try:
        wait_for_server(port, server)
        yield Bridge(ssh / "server.log", srv)
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

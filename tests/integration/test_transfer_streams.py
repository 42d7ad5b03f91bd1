# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""Trees of files between hosts, with real connections to a real sshd.

The remote operations are those of ``transfer_trial``, in a copy of the engine.
"""

from __future__ import annotations

import importlib
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
MIB = 1 << 20
DATA = random.Random(1).randbytes(MIB)
MODULES = (
    "_core.errors",
    "_remote.transfer",
    "_remote.tree",
    "_trial.protocol",
    "_remote.tree_stream",
    "_remote.session",
)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Return the modules of a copy of the engine that has the operations of the trial."""
    package = tmp_path_factory.mktemp("engine") / "granary_vmstore"
    package.mkdir()
    for path in (ROOT / "plugins" / "module_utils").iterdir():
        (package / path.name).symlink_to(path)
    (package / "_trial").symlink_to(Path(__file__).with_name("transfer_trial"))
    sys.path.insert(0, str(package.parent))
    try:
        found = {name.rpartition(".")[2]: importlib.import_module(f"granary_vmstore.{name}") for name in MODULES}
        yield SimpleNamespace(path=package.parent, **found)
    finally:
        sys.path.remove(str(package.parent))
        for name in [name for name in sys.modules if name.split(".")[0] == "granary_vmstore"]:
            del sys.modules[name]


class Hosts:
    """The front-end, and the hosts h1 and h2, with a directory of each."""

    def __init__(self, engine: Any, directory: Path) -> None:
        self.engine = engine
        self.here, self.h1, self.h2 = (directory / name for name in ("here", "h1", "h2"))
        for path in (self.here, self.h1, self.h2):
            path.mkdir()
        self.log: list[str] = []

    def route(self, host: str) -> Any:
        return self.engine.transfer.Route(host, self.engine.protocol.__name__, self.log.append)

    def push(self, names: dict[str, str], host: str = "h1") -> Any:
        """Send files of the front-end to a host."""
        with opened(self.here) as directory:
            return self.engine.transfer.push_tree(
                self.route(host),
                "put",
                self.engine.protocol.OPERATIONS["put"],
                self.engine.protocol.request("put", str(self.h1)),
                self.engine.tree.Source(directory, str(self.here), names),
                kinds={},
            )

    def pull(self, names: dict[str, str], host: str = "h1") -> Any:
        """Get files of a host."""
        with opened(self.here) as directory:
            return self.engine.transfer.pull_tree(
                self.route(host),
                "get",
                self.engine.protocol.OPERATIONS["get"],
                self.engine.protocol.request("get", str(self.h1), names),
                directory,
                kinds={},
            )

    def pass_on(self, names: dict[str, str], host: str = "h2") -> Any:
        """Let h1 send files directly to another host."""
        with self.route("h1").connect() as session:
            assert session.handshake() is None
            operation = self.engine.protocol.OPERATIONS["pass_on"]
            request = self.engine.protocol.request("pass_on", str(self.h1), names, host, str(self.h2))
            return session.ask("pass_on", operation, request, kinds={}, timeout=60)


class opened:
    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> int:
        self._descriptor = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY)
        return self._descriptor

    def __exit__(self, *_error: object) -> None:
        os.close(self._descriptor)


@pytest.fixture
def hosts(shared_bridges: Any, engine: Any, tmp_path: Path) -> Hosts:
    return Hosts(engine, tmp_path)


def write_sparse(path: Path, pieces: dict[int, bytes], size: int) -> None:
    with path.open("wb") as file:
        for position, data in pieces.items():
            file.seek(position)
            file.write(data)
        file.truncate(size)


def make_vm(directory: Path) -> None:
    """Make the files of a virtual machine: a disk with snapshots, a raw disk, and a file without rights."""
    (snapshots := directory / "disk.0.snap").mkdir(parents=True)
    write_sparse(snapshots / "0", {3 * MIB: DATA}, 64 * MIB)
    write_sparse(snapshots / "1", {0: DATA[:1000], 70 * MIB: DATA}, 100 * MIB + 17)
    (directory / "disk.0").symlink_to("disk.0.snap/1")
    write_sparse(directory / "disk.1", {}, 1 << 40)
    (directory / "empty").touch(mode=0o400)
    (directory / "vm.xml").write_text("<VM/>")
    (directory / "é \udcff").write_bytes(b"x")
    os.utime(snapshots / "0", ns=(1, 1_234_567_890_123_456_789))
    os.utime(snapshots, ns=(1, 1_111_111_111_000_000_001))


#: Print everything about files that a transfer keeps, by find(1) and sha256sum(1). A directory's size isn't kept.
FACTS = """
cd "$1"
find . -mindepth 1 -type d -printf '%P|%y|%m|%T@\\n' -o -mindepth 1 -printf '%P|%y|%m|%s|%T@|%l\\n' | sort
find . -type f -size -1G -exec sha256sum {} + | sort
"""


def facts(directory: Path) -> bytes:
    return subprocess.run(["sh", "-c", FACTS, "sh", directory], capture_output=True, check=True).stdout


def allocated(path: Path) -> int:
    return path.stat().st_blocks * 512


def test_push_of_a_file_with_its_snapshots(hosts: Hosts) -> None:
    make_vm(hosts.here)
    assert hosts.push({"disk.0": "disk.5", "disk.0.snap": "disk.5.snap"}) == "stored"
    assert sorted(os.listdir(hosts.h1)) == ["disk.5", "disk.5.snap"]
    assert os.readlink(hosts.h1 / "disk.5") == "disk.5.snap/1"
    assert facts(hosts.h1 / "disk.5.snap") == facts(hosts.here / "disk.0.snap")
    assert allocated(hosts.h1 / "disk.5.snap" / "0") < 2 * MIB


def test_pull_removes_the_source(hosts: Hosts) -> None:
    make_vm(hosts.h1 / "7")
    subprocess.run(["cp", "-a", hosts.h1 / "7", hosts.h1 / "same"], check=True)
    assert hosts.pull({"7": "7"}) == "removed"
    assert os.listdir(hosts.h1) == ["same"]
    assert os.listdir(hosts.here) == ["7"]
    assert facts(hosts.here / "7") == facts(hosts.h1 / "same")
    assert allocated(hosts.here / "7" / "disk.1") == 0


def test_directly_between_two_hosts(hosts: Hosts, shared_bridges: Any) -> None:
    make_vm(hosts.h1 / "7")
    before = shared_bridges.connections()
    assert hosts.pass_on({"7": "7"}) == "stored"
    assert shared_bridges.connections() == before + 2
    assert facts(hosts.h2 / "7") == facts(hosts.h1 / "7")

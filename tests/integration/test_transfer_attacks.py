# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""Attacks on the actions of transfer drivers: hostile arguments, files of other users, guests, and hosts that lie."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import stat
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import vm_transfers
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import InvalidInput, VmstoreError
from conftest import TENANT
from refusal import refused
from vm_transfers import IMAGE, Action, Files

ACTIONS = vm_transfers.actions("localhost", "localhost")
LYING = vm_transfers.actions("lying", "localhost")

#: A program in the place of python3 of a host. It reads a request as the engine does, and then lies.
LIAR = """
import hashlib, json, struct, sys
def send(message):
    line = message if isinstance(message, bytes) else json.dumps(message).encode() + b"\\n"
    sys.stdout.buffer.write(line)
    sys.stdout.buffer.flush()
def frame(kind, length, data=b""):
    send(struct.pack(">cQ", kind, length) + data)
def entry(path, kind="file", mode=0o644, mtime=1, size=0, data=0, target="", version=0):
    return locals()
def finish():
    digest = json.loads(stdin.readline())["position"][2]
    frame(b"E", 32, hashlib.sha256(bytes.fromhex(digest)).digest())
    stdin.readline()
    send({"result": None})
print("granary.vmstore is here", flush=True)
stdin = sys.stdin.buffer
stdin.read(int(stdin.readline()))
request = json.loads(stdin.readline())
"""

#: Lies about the files of an image that the front-end receives.
FILES = {
    "a path above": "send({'tree': [entry('../x')]})",
    "an absolute path": "send({'tree': [entry('/tmp/x')]})",
    "another image": "send({'tree': [entry('%s'), entry('f' * 32)]})" % IMAGE,
    "a hidden name": "send({'tree': [entry('.%s'), entry('%s')]})" % ("a" * 32 + ".part", IMAGE),
    "a directory as image": "send({'tree': [entry('%s', 'directory')]})" % IMAGE,
    "only snapshots": "send({'tree': [entry('%s.snap', 'directory')]})" % IMAGE,
    "snapshots as file": "send({'tree': [entry('%s'), entry('%s.snap')]})" % (IMAGE, IMAGE),
    "a link out": "send({'tree': [entry('%s', 'link', 0o777, target='../../etc/passwd')]})" % IMAGE,
    "a link to another file": "send({'tree': [entry('%s', 'link', 0o777, target='other')]})" % IMAGE,
    "a link to itself": "send({'tree': [entry('%s', 'link', 0o777, target='%s')]})" % (IMAGE, IMAGE),
    "bits of a set-user-id program": "send({'tree': [entry('%s', mode=0o4755)]})" % IMAGE,
    "a negative size": "send({'tree': [entry('%s', size=-1)]})" % IMAGE,
    "a fraction": "send({'tree': [entry('%s', size=1.5)]})" % IMAGE,
    "a flag": "send({'tree': [entry('%s', size=True, data=True)]})" % IMAGE,
    "8 EiB": "send({'tree': [entry('%s', size=2**63 - 1, data=2**63 - 1)]})" % IMAGE,
    "no file": "send({'tree': []})",
    "no tree": "send({'tree': None})",
    "a list": "send([1, 2])",
    "a number": "send(b'7\\n')",
    "no JSON": "send(b'x\\n')",
    "deep JSON": "send(b'[' * 10**6 + b'\\n')",
    "a long number": "send(b'{\"tree\": ' + b'9' * 10**6 + b'}\\n')",
    "too many files": "send({'tree': [entry('%s.snap', 'directory')] + [entry('%s.snap/%%06d' %% n) for n in range(20000)]})"
    % (IMAGE, IMAGE),
    "an endless line": "\nwhile True: send(b'x' * (1 << 20))",
    "endless logs": "\nwhile True: send({'log': 'still here'})",
    "more data than announced": "send({'tree': [entry('%s', size=8, data=8)]})\nframe(b'D', 1 << 40)" % IMAGE,
    "an unknown frame": "send({'tree': [entry('%s', size=8, data=8)]})\nframe(b'?', 8, b'x' * 8)" % IMAGE,
    "a wrong digest": "send({'tree': [entry('%s', size=8, data=8)]})\nframe(b'D', 8, b'x' * 8)\nframe(b'E', 32, b'x' * 32)"
    % IMAGE,
    "a long failure": "send({'tree': [entry('%s', size=8, data=8)]})\nframe(b'F', 1 << 62)" % IMAGE,
    "an unknown failure": "send({'tree': [entry('%s', size=8, data=8)]})\nframe(b'F', 22, b'{\"error\": \"SystemExit\"}')"
    % IMAGE,
    "a failure of no kind": "send({'tree': [entry('%s', size=8, data=8)]})\nframe(b'F', 4, b'null')" % IMAGE,
    "an unknown error": "send({'error': 'KeyboardInterrupt', 'message': 'x'})",
    "an error without fields": "send({'error': 'InvalidInput'})",
    "an error of other fields": "send({'error': 'PartlyDone', 'message': 'x'})",
    "no number of the error": "send({'error': ['NotFound'], 'message': 'x'})",
}

#: Lies to a front-end that sends the files of an image.
POSITIONS = {
    "a fraction": "{'position': [0, 1.5, '']}",
    "another fraction": "{'position': [1.0, 1, '']}",
    "behind the end": "{'position': [0, 10**30, '']}",
    "no such file": "{'position': [99, 0, '']}",
    "negative": "{'position': [-1, 0, '']}",
    "no number": "{'position': ['0', '0', '']}",
    "infinite": "{'position': [0, float('inf'), '']}",
    "no digest": "{'position': [1, 0, 'xyz']}",
    "a short digest": "{'position': [1, 0, 'ff']}",
    "nothing": "{}",
    "a list": "[]",
}


SECRET = b"a secret of root " * 1000

#: Actions that meet the files of another user. The front-end's files are root's.
HOST_ACTIONS = [name for name, action in ACTIONS.items() if action.driver != "shared"]


def link(target: str) -> Callable[[Path], object]:
    return lambda path: path.symlink_to(target)


def directory_with_link(path: Path) -> None:
    """Create a part directory whose lock file is a link."""
    path.mkdir(0o700)
    (path / "lock").symlink_to("../../../../outside/secret")


#: Files that another user has put into the place of the host's files, each with its path and the function that
#: creates it. Links to ``outside`` lead to files of root.
PLANTS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "disk is a link": ("0/5/disk.0", link("../../../../outside/secret")),
    "disk is a link to nothing": ("0/5/disk.0", link("../../../../outside/new")),
    "disk is a FIFO": ("0/5/disk.0", os.mkfifo),
    "disk is a directory": ("0/5/disk.0", Path.mkdir),
    "disk is a device": ("0/5/disk.0", lambda path: os.mknod(path, 0o600 | stat.S_IFCHR, os.makedev(1, 5))),
    "disk is a socket": ("0/5/disk.0", lambda path: os.mknod(path, 0o600 | stat.S_IFSOCK)),
    "snapshots are a link": ("0/5/disk.0.snap", link("../../../../outside/directory")),
    "snapshots are a FIFO": ("0/5/disk.0.snap", os.mkfifo),
    "a snapshot is a link": ("0/5/disk.0.snap/0", link("../../../../../outside/secret")),
    "a snapshot is a FIFO": ("0/5/disk.0.snap/0", os.mkfifo),
    "a new snapshot is a link": ("0/5/disk.0.snap/3", link("../../../../../outside/secret")),
    "snapshots lead elsewhere": ("0/5/disk.0.snap/disk.0.snap", link("../../../../../outside/directory")),
    "VM directory is a link": ("0/5", link("../../../outside/vm")),
    "datastore is a link": ("0", link("../../outside/datastore")),
    "monitor is a link": ("0/.monitor", link("../../../outside/secret")),
    "monitor is a FIFO": ("0/.monitor", os.mkfifo),
    "lock is a link": ("0/5/.disks.lock", link("../../../../outside/secret")),
    "lock is a FIFO": ("0/5/.disks.lock", os.mkfifo),
    "mark is a link": ("0/5/.disk.0.moved", link("../../../../outside/secret")),
    "removed directory is a link": ("0/.5.removed", link("../../../outside/directory")),
    "part is a link": (f"0/5/.{'a' * 32}.part", link("../../../../outside/directory")),
    "lock of a part is a link": (f"0/5/.{'a' * 32}.part", directory_with_link),
}


class Tree:
    """Files of a front-end and of hosts, and files of root beside them."""

    def __init__(self, root: Path) -> None:
        self.root = root / "tree"
        self.outside = root / "outside"

    def prepare(self, action: Action) -> None:
        self.root.mkdir()
        action.prepare(self.root)


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


def lies(bridges: Any, tree: Tree, name: str, program: str) -> Files:
    """Run an action with a lying host, and require one error and unchanged files of the front-end."""
    (bridges.root / "liar.py").write_text(f"{LIAR}{program}\nstdin.read()")
    action = LYING[name]
    tree.prepare(action)
    before = vm_transfers.files(tree.root)
    with pytest.raises(VmstoreError) as caught:
        vm_transfers.run(action, tree.root)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 3000
    assert vm_transfers.files(tree.root) == before
    return before


@pytest.mark.parametrize("lie", FILES)
def test_a_host_that_sends_other_files(shared_bridges: Any, tree: Tree, lie: str) -> None:
    lies(shared_bridges, tree, "mvds, ssh raw", f"{FILES[lie]}\nfinish()")


@pytest.mark.parametrize("lie", POSITIONS)
def test_a_host_that_needs_other_data(shared_bridges: Any, tree: Tree, lie: str) -> None:
    lies(shared_bridges, tree, "clone, ssh raw", f"stdin.readline()\nsend({POSITIONS[lie]})")


@pytest.mark.parametrize("result", ["7", "[]", "{'a': 1}", "False"])
def test_a_host_with_another_result(shared_bridges: Any, tree: Tree, result: str) -> None:
    lies(shared_bridges, tree, "snap_create, ssh raw", f"send({{'result': {result}}})")


def facts_of(path: Path) -> dict[str, tuple[int, int, bytes]]:
    """Return everything about files that an attack could change."""
    found = {}
    for one in (path, *path.rglob("*")):
        status = one.stat()
        found[str(one)] = (status.st_mode, status.st_uid, one.read_bytes() if one.is_file() else b"")
    return found


@pytest.mark.parametrize("plant", PLANTS)
def test_files_of_another_user(tree: Tree, plant: str) -> None:
    for path in ("vm/disk.0", "datastore/5/disk.0", "directory/0", "secret"):
        (tree.outside / path).parent.mkdir(parents=True, exist_ok=True)
        (tree.outside / path).write_bytes(SECRET)
    (tree.outside / "secret").chmod(0o600)
    before = facts_of(tree.outside)
    path, make = PLANTS[plant]
    for name in HOST_ACTIONS:
        tree.prepare(ACTIONS[name])
        host, planted = tree.root / "host", tree.root / "host" / path
        if planted.is_symlink() or planted.is_file():
            planted.unlink()
        elif planted.exists():
            shutil.rmtree(planted)
        planted.parent.mkdir(parents=True, exist_ok=True)
        make(planted)
        for one in (host, *host.rglob("*")):
            os.lchown(one, TENANT, TENANT)
        with contextlib.suppress(VmstoreError):
            vm_transfers.run(ACTIONS[name], tree.root)
        assert facts_of(tree.outside) == before, name
        assert not any(SECRET[:100] in data for data in vm_transfers.files(tree.root).values()), name
        shutil.rmtree(tree.root)


def overwritten(path: Path, backing: str) -> str:
    """Let a guest write a qcow2 header with a backing file to its raw disk, and return the new content's digest."""
    header = path.with_name("header")
    command = ["qemu-img", "create", "-q", "-f", "qcow2", "-u", "-F", "raw", "-b", backing, header, "1M"]
    subprocess.run(command, check=True)
    with path.open("r+b") as file:
        file.write(header.read_bytes()[:65536])
    header.unlink()
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("backing", ["/etc/passwd", "disk.0.snap/0", f"{IMAGE}.snap/0"])
@pytest.mark.parametrize("name", [name for name in HOST_ACTIONS if ACTIONS[name].format == "raw"])
def test_a_raw_disk_stays_raw(tree: Tree, name: str, backing: str) -> None:
    action = ACTIONS[name]
    tree.prepare(action)
    before = vm_transfers.state_of(vm_transfers.files(tree.root), "raw")
    written = {digest: overwritten(tree.root / path, backing) for path, digest in before.items()}
    for checksum in tree.root.rglob("*.md5sum"):
        checksum.write_text(hashlib.md5(checksum.with_suffix("").read_bytes()).hexdigest())
    vm_transfers.run(action, tree.root)
    found = vm_transfers.state_of(vm_transfers.files(tree.root), "raw")
    if name.startswith("resize"):  # the old part of the disk
        found = {path: digest for path, digest in found.items() if path.endswith(("/0", "/1"))}
        assert found == {path: written[action.new[path]] for path in found}
    else:
        assert found == {path: written[digest] for path, digest in action.new.items()}


def rebased(backing: str, layer: int = 0) -> Callable[[Path], object]:
    """Return a function that gives a layer another backing file."""

    def change(snapshots: Path) -> None:
        command = ["qemu-img", "rebase", "-u", "-f", "qcow2", "-F", "raw", "-b", backing, snapshots / str(layer)]
        subprocess.run(command, check=True)

    return change


def with_data_file(snapshots: Path) -> None:
    """Let the current layer have its data in another file."""
    (data := snapshots.parent.parent / "data").write_bytes(bytes(1 << 20))
    (snapshots / "2").unlink()
    options = f"data_file={data},data_file_raw=on"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-o", options, snapshots / "2", "1M"], check=True)
    data.write_bytes(SECRET)


#: Changes of the layers of a disk that read other files.
LAYERS = {
    "another file": rebased("/etc/passwd"),
    "a relative name": rebased("../../../../../../../../etc/passwd"),
    "another disk": rebased("disk.1.snap/0", 1),
    "a server": rebased("nbd://127.0.0.1:9/x"),
    "a description": rebased('json:{"driver": "file", "filename": "/etc/passwd"}'),
    "a loop": rebased("disk.0.snap/2"),
    "itself": rebased("disk.0.snap/0"),
    "a data file": with_data_file,
}
#: Actions that read all layers.
READING = [name for name in ("mvds, local", "cpds, local", "snap_create, local", "snap_delete, local")]


@pytest.mark.parametrize("name", READING)
@pytest.mark.parametrize("change", LAYERS)
def test_layers_that_read_other_files(tree: Tree, change: str, name: str) -> None:
    tree.prepare(ACTIONS[name])
    LAYERS[change](tree.root / "host/0/5/disk.0.snap")
    before = vm_transfers.files(tree.root)
    with pytest.raises(VmstoreError):
        vm_transfers.run(ACTIONS[name], tree.root)
    found = vm_transfers.files(tree.root)
    assert {path: data for path, data in found.items() if not vm_transfers.KEPT.fullmatch(path)} == before

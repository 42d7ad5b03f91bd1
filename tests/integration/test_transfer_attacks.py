# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""Attacks on the actions of transfer drivers: hostile arguments, files of other users, guests, and hosts that lie."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import shutil
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import vm_transfers
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import InvalidInput, VmstoreError
from ansible_collections.granary.vmstore.plugins.module_utils._driver.datastore.base import Settings
from ansible_collections.granary.vmstore.plugins.module_utils._driver.transfer.facts import VmFacts
from ansible_collections.granary.vmstore.plugins.module_utils._driver.transfer.registry import transfer_class
from ansible_collections.granary.vmstore.plugins.module_utils._face.driver_script.transfer_action import run_transfer
from ansible_collections.granary.vmstore.plugins.module_utils._face.driver_script.vm_document import parse_vm
from ansible_collections.granary.vmstore.plugins.module_utils._model.place import Place
from ansible_collections.granary.vmstore.plugins.module_utils._model.vm import Vm
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
def small():
    send({"tree": [entry(IMAGE, size=8, data=8)]})
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
    "another image": "send({'tree': [entry(IMAGE), entry('f' * 32)]})",
    "a hidden name": "send({'tree': [entry('.' + 'a' * 32 + '.part'), entry(IMAGE)]})",
    "a directory as image": "send({'tree': [entry(IMAGE, 'directory')]})",
    "only snapshots": "send({'tree': [entry(IMAGE + '.snap', 'directory')]})",
    "snapshots as file": "send({'tree': [entry(IMAGE), entry(IMAGE + '.snap')]})",
    "a link out": "send({'tree': [entry(IMAGE, 'link', 0o777, target='../../etc/passwd')]})",
    "a link to another file": "send({'tree': [entry(IMAGE, 'link', 0o777, target='other')]})",
    "a link to itself": "send({'tree': [entry(IMAGE, 'link', 0o777, target=IMAGE)]})",
    "bits of a set-user-id program": "send({'tree': [entry(IMAGE, mode=0o4755)]})",
    "a negative size": "send({'tree': [entry(IMAGE, size=-1)]})",
    "a fraction": "send({'tree': [entry(IMAGE, size=1.5)]})",
    "a flag": "send({'tree': [entry(IMAGE, size=True, data=True)]})",
    "8 EiB": "send({'tree': [entry(IMAGE, size=2**63 - 1, data=2**63 - 1)]})",
    "no file": "send({'tree': []})",
    "no tree": "send({'tree': None})",
    "a list": "send([1, 2])",
    "a number": "send(b'7\\n')",
    "no JSON": "send(b'x\\n')",
    "deep JSON": "send(b'[' * 10**6 + b'\\n')",
    "a long number": "send(b'{\"tree\": ' + b'9' * 10**6 + b'}\\n')",
    "too many files": "many = [entry('%s.snap/%06d' % (IMAGE, n)) for n in range(20000)]\n"
    "send({'tree': [entry(IMAGE + '.snap', 'directory'), *many]})",
    "an endless line": "\nwhile True: send(b'x' * (1 << 20))",
    "endless logs": "\nwhile True: send({'log': 'still here'})",
    "more data than announced": "small()\nframe(b'D', 1 << 40)",
    "an unknown frame": "small()\nframe(b'?', 8, b'x' * 8)",
    "a wrong digest": "small()\nframe(b'D', 8, b'x' * 8)\nframe(b'E', 32, b'x' * 32)",
    "a long failure": "small()\nframe(b'F', 1 << 62)",
    "an unknown failure": "small()\nframe(b'F', 22, b'{\"error\": \"SystemExit\"}')",
    "a failure of no kind": "small()\nframe(b'F', 4, b'null')",
    "an unknown error": "send({'error': 'KeyboardInterrupt', 'message': 'x'})",
    "an error without fields": "send({'error': 'InvalidInput'})",
    "an error of other fields": "send({'error': 'PartlyDone', 'message': 'x'})",
    "no number of the error": "send({'error': ['NotFound'], 'message': 'x'})",
}

#: Lies to a front-end that sends the files of an image.
POSITIONS = {
    "a fraction": "{'position': [0, 1.5, '00' * 32]}",
    "another fraction": "{'position': [1.0, 1, '00' * 32]}",
    "behind the end": "{'position': [0, 10**30, '00' * 32]}",
    "no such file": "{'position': [99, 0, '00' * 32]}",
    "negative": "{'position': [-1, 0, '00' * 32]}",
    "no number": "{'position': ['0', '0', '00' * 32]}",
    "infinite": "{'position': [0, float('inf'), '00' * 32]}",
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
    (bridges.root / "liar.py").write_text(f"IMAGE = {IMAGE!r}{LIAR}{program}\nstdin.read()")
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
        # A placeholder has the zeros of no disk.
        assert found == {path: written.get(digest, digest) for path, digest in action.new.items()}


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
READING = ("mvds, local", "cpds, local", "snap_create, local", "snap_delete, local")


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


#: Places of disks that no front-end has.
PLACES = (
    "-oProxyCommand=touch /tmp/pwned:/one/0/5/disk.0",
    "h1 -oPort=1:/one/0/5/disk.0",
    "h1\n:/one/0/5/disk.0",
    "$(id):/one/0/5/disk.0",
    "user@h1:/one/0/5/disk.0",
    "[::1:/one/0/5/disk.0",
    ":/one/0/5/disk.0",
    "h1:one/0/5/disk.0",
    "h1:/one/0/5/../5/disk.0",
    "h1:/one/0/5/disk.0\n",
    "h1:/one/0/5/disk.0 x",
    "h1:/one/0/5/disk.-1",
    "h1:/one/0/5/disk.",
    "h1:/one/0/5/disk.x",
    "h1:/one/0/5/disk.\N{SUPERSCRIPT TWO}",
    "h1:/one/0/5/disk.01",
    "h1:/one/0/5/disk." + "9" * 30,
    "h1:/one/x/5/disk.0",
    "h1:/one/0/-5/disk.0",
    "h1:/disk.0",
    "h1:/" + "a" * 5000,
)
IMAGE_PLACE = f"frontend:/one/1/{IMAGE}"
#: Arguments of actions with a place.
CALLS: dict[str, Callable[[str], list[str]]] = {
    "clone": lambda disk: [IMAGE_PLACE, disk],
    "ln": lambda disk: [IMAGE_PLACE, disk],
    "mvds": lambda disk: [disk, f"/one/1/{IMAGE}"],
    "cpds": lambda disk: [disk, f"/one/1/{IMAGE}", "0"],
    "snap_create": lambda disk: [disk, "0"],
    "snap_revert": lambda disk: [disk, "0"],
}


@pytest.mark.parametrize("action", CALLS)
def test_places_of_no_disk(tree: Tree, monkeypatch: pytest.MonkeyPatch, action: str) -> None:
    """No argument reaches a front-end or a host, because both are unreachable here."""
    monkeypatch.setenv("ONE_XMLRPC", "http://127.0.0.1:1/RPC2")
    for disk in PLACES:
        with refused(InvalidInput):
            run_transfer(str(tree.root), "ssh", action, [*CALLS[action](disk), "5", "1"], io.BytesIO())


@pytest.mark.parametrize("number", ["-1", "1.5", "", "x", "9" * 30, "1 ", "+1", "\N{ARABIC-INDIC DIGIT ONE}", "1\n"])
def test_numbers_that_are_none(tree: Tree, number: str) -> None:
    for action in ("resize", "snap_create", "snap_delete", "snap_revert"):
        with refused(InvalidInput):
            run_transfer(str(tree.root), "ssh", action, ["h1:/one/0/5/disk.0", number, "5", "1"], io.BytesIO())


DOCUMENT = """<VM><ID>5</ID><NAME>vm</NAME><STATE>3</STATE><LCM_STATE>3</LCM_STATE><TEMPLATE><DISK><DISK_ID>0</DISK_ID>
<TYPE>FILE</TYPE><SIZE>{SIZE}</SIZE><ORIGINAL_SIZE>1</ORIGINAL_SIZE><FORMAT>{FORMAT}</FORMAT><SOURCE>/one/1/x</SOURCE>
</DISK></TEMPLATE><HISTORY_RECORDS><HISTORY><HOSTNAME>h1</HOSTNAME><DS_ID>0</DS_ID><TM_MAD>ssh</TM_MAD>
<VM_MAD>kvm</VM_MAD><ACTION>0</ACTION></HISTORY></HISTORY_RECORDS></VM>"""


class DocumentFacts(VmFacts):
    def __init__(self, **values: str) -> None:
        self._document = DOCUMENT.format_map({"SIZE": "1", "FORMAT": "raw", **values}).encode()

    def vm(self, vm_id: int) -> Vm:
        return parse_vm(self._document, "the test")


@pytest.mark.parametrize(
    "values",
    [
        *({"FORMAT": found} for found in ("raw;rm", "../x", "luks", "raw -o x", "-f", "")),
        *({"SIZE": found} for found in ("1" + "0" * 18, "9" * 18, str(2**43), str(2**26 + 1), "-1", "1e3", "")),
    ],
    ids=str,
)
def test_values_of_a_document_that_no_disk_has(tree: Tree, values: dict[str, str]) -> None:
    action = ACTIONS["clone, ssh raw"]
    tree.prepare(action)
    before = vm_transfers.files(tree.root)
    with refused(InvalidInput):
        action.work(transfer_class("ssh")(DocumentFacts(**values), Settings()), tree.root)
    assert vm_transfers.files(tree.root) == before


def test_a_disk_does_not_grow_over_all_bounds(tree: Tree) -> None:
    action = ACTIONS["resize, ssh raw"]
    tree.prepare(action)
    driver = transfer_class("ssh")(DocumentFacts(), Settings())
    with refused(InvalidInput, option="size", says="size: * is not accepted: at most 67108864 MiB are expected."):
        driver.resize(Place("localhost", f"{tree.root}/{vm_transfers.HOST}"), 2**43, vm_transfers.VM)

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

# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""Fake files of a host for plans, and a mount namespace for whole runs.

In whole runs, tmpfs represents a shared file system: it accepts any source and has options that the kernel shows.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core.plan import Plan
from ansible_collections.granary.vmstore.plugins.module_utils._service.mount.shared_mount import (
    SharedMountService,
    build_shared_mount,
)

ROOT = "24 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n"
DEFAULTS: dict[str, Any] = {
    "source": "nas:/srv",
    "fstype": "nfs",
    "options": [],
    "state": "mounted",
    "boot": True,
    "nofail": True,
    "owner": None,
    "group": None,
    "mode": None,
    "marker": None,
    "verify": None,
    "remount": "live",
    "nonempty": False,
    "lazy": False,
    "timeout": 60,
}

#: Options of an NFS 4.2 mount with the recommended options, in the two lists of mountinfo.
OWN = "rw,relatime"
SUPER = "rw,vers=4.2,rsize=65536,wsize=65536,namlen=255,hard,proto=tcp,nconnect=4,timeo=600,retrans=2,sec=sys"
#: The words in fstab for the same options.
WORDS = "vers=4.2,hard,nconnect=4,_netdev,nofail"


class FakeHost:
    """Directories that represent the host's /etc and /proc, and a directory for a mount point."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.point = base / "mnt"
        self.point.mkdir()
        for name in ("etc", "proc/self"):
            (base / name).mkdir(parents=True)
        (base / "proc/filesystems").write_text("nodev\tproc\nnodev\tceph\n\text4\n")
        self.live()
        self.fstab = base / "etc/fstab"
        self.fstab.write_text("# fstab\n")

    def live(self, *lines: str) -> None:
        """Set the live mounts by the end of their line: ``MOUNT_POINT OPTIONS - TYPE SOURCE OPTIONS``."""
        text = "".join(f"{number} 24 0:{number} / {line}\n" for number, line in enumerate(lines, 31))
        (self.base / "proc/self/mountinfo").write_text(ROOT + text)

    def nfs(self, source: str = "nas:/srv", own: str = OWN, superblock: str = SUPER) -> str:
        return f"{self.point} {own} - nfs4 {source} {superblock}"

    def entry(self, words: str = WORDS, source: str = "nas:/srv", fstype: str = "nfs") -> str:
        return f"{source} {self.point} {fstype} {words} 0 0\n"

    def service(self, **options: object) -> SharedMountService:
        etc, proc = str(self.base / "etc"), str(self.base / "proc")
        return build_shared_mount({**DEFAULTS, "path": str(self.point), **options}, etc, proc)

    def plan(self, **options: object) -> Plan:
        return self.service(**options).plan()

    def actions(self, **options: object) -> list[str]:
        return [action.name for action in self.plan(**options).actions]


@pytest.fixture
def fake_host(tmp_path: Path) -> FakeHost:
    return FakeHost(tmp_path)


PRELUDE = (
    f"""
import json, os, pwd, subprocess, sys, time
from collections import Counter
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import VmstoreError
from ansible_collections.granary.vmstore.plugins.module_utils._host.mount import mountinfo, store
from ansible_collections.granary.vmstore.plugins.module_utils._host.mount.other_types import OtherType
from ansible_collections.granary.vmstore.plugins.module_utils._service.mount import shared_mount as service
from ansible_collections.granary.vmstore.plugins.module_utils._service.mount.shared_mount_info import shared_mount_info

class Tmpfs(OtherType):
    "tmpfs in the place of a shared file system. A tmpfs is empty after each mount."
    can_be_tried = True

# tmpfs is refused as a type that is never shared.
service.file_system_type = lambda option, name: Tmpfs(name)

base, point = sys.argv[1:]
fstab = os.path.join(base, "etc/fstab")
DEFAULTS = json.loads({json.dumps(json.dumps({**DEFAULTS, "source": "one", "fstype": "tmpfs"}))})
UUID = "0d0a3a9c-40a4-4c80-a35c-fd3b5b5b1c2e"
OTHER = "11111111-2222-4333-8444-555555555555"
USER = 61001
"""
    + """

def build(**options):
    return service.build_shared_mount({**DEFAULTS, "path": point, **options}, os.path.join(base, "etc"))

def told_error(error):
    fields = {name: getattr(error, name) for name in ("option", "value") if hasattr(error, name)}
    return [type(error).__name__, str(error), fields]

def run(change=lambda: None, dry=False, **options):
    "Return the names of the actions, or the class, the message and the fields of the error."
    try:
        made = build(**options)
        if dry:
            return [action.name for action in made.dry_run().actions]
        made.will_run = True
        with made.exclusive():
            plan = made.plan()
            change()
            plan.run()
        return [action.name for action in plan.actions]
    except VmstoreError as error:
        return told_error(error)

def result(dry=False, **options):
    made = build(**options)
    return (made.dry_run() if dry else made.converge()).result["mount"]

def warnings(dry=False, **options):
    made = build(**options)
    return (made.dry_run() if dry else made.plan()).warnings

def live(path=point):
    command = ["findmnt", "--noheadings", "--raw", "--mountpoint", path, "-o", "SOURCE,VFS-OPTIONS"]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True).stdout.splitlines()

def read():
    return open(fstab).read()

def all_sources():
    command = ["findmnt", "--noheadings", "--raw", "-t", "tmpfs", "-o", "SOURCE"]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True).stdout.split()

others = all_sources()

def sources():
    "Return the sources of the mounts of type tmpfs of this test, by another program than the engine."
    # The namespace has copies of the mounts that tests in other processes had at its start.
    return list((Counter(all_sources()) - Counter(others)).elements())

def mount(source="one", path=point, *options):
    subprocess.run(["mount", "-t", "tmpfs", *options, source, path], check=True)

def attacked(command, attack):
    "A program before the real one in PATH acts at the worst moment."
    tools = os.path.join(base, "tools")
    os.makedirs(tools, exist_ok=True)
    with open(os.path.join(tools, command), "w") as file:
        file.write("#!/bin/sh -e" + chr(10) + attack + chr(10))
    os.chmod(file.name, 0o755)
    if not os.environ["PATH"].startswith(tools):
        os.environ["PATH"] = tools + ":" + os.environ["PATH"]

def filled(content):
    "After each mount, the new tmpfs gets the content of a store by shell commands in its root."
    attacked("mount", 'PATH=/usr/sbin:/usr/bin:/sbin:/bin; mount "$@"; case "$*" in *remount*) exit;; esac; '
             'for place; do :; done; cd "$(readlink "${place%/.}")"; ' + content)
"""
)


class Namespace:
    """A directory for a mount point and for /etc, and programs that run in a mount namespace of their own."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.point = base / "mnt"
        self.point.mkdir()
        (base / "etc").mkdir()
        self.fstab = base / "etc/fstab"
        self.fstab.write_text("# fstab\n")
        base.chmod(0o755)

    def __call__(self, code: str, point: Path | None = None) -> list[Any]:
        """Return the values that ``code`` appends to ``told``."""
        program = self.base / "program.py"
        program.write_text(PRELUDE + "told = []\n" + code + "\nprint(json.dumps(told))\n")
        command = ["unshare", "--mount", "--propagation", "private", sys.executable, program]
        arguments = [str(self.base), str(point or self.point)]
        done = subprocess.run([*command, *arguments], stdout=subprocess.PIPE, text=True, check=True, timeout=120)
        return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture
def namespace() -> Iterator[Namespace]:
    # pytest's own directory is closed to other users.
    base = Path(tempfile.mkdtemp(prefix="shared-mount-"))
    yield Namespace(base)
    subprocess.run(["rm", "-rf", base], check=True)

# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""Programs that test_running_disks.py runs on the hosts of the lab, with the engine."""

from __future__ import annotations

#: The beginning of each program. ``domain`` is the domain of the first argument, and ``paths`` are the others.
HEAD = """
import contextlib, json, os, signal, sys, time
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import VmstoreError
from ansible_collections.granary.vmstore.plugins.module_utils._core.plan import Plan
from ansible_collections.granary.vmstore.plugins.module_utils._libvirt.connection import Hypervisor
from ansible_collections.granary.vmstore.plugins.module_utils._libvirt.devices.disk import Disk
from ansible_collections.granary.vmstore.plugins.module_utils._libvirt.disk_attachment import (
    plan_attachment, plan_detachment)
from ansible_collections.granary.vmstore.plugins.module_utils._libvirt.disk_copy import copy_disk
from ansible_collections.granary.vmstore.plugins.module_utils._libvirt.disk_snapshots import (
    DiskFile, create_snapshot, merge_files, name_disk)
from ansible_collections.granary.vmstore.plugins.module_utils._libvirt.quiesce import quiesced
from ansible_collections.granary.vmstore.plugins.module_utils._libvirt.running_disk import find_running_disk
domain, paths = Hypervisor("qemu:///system").domain(sys.argv[1]), sys.argv[2:]
result = {}

def run(plan):
    actions = [action.name for action in plan.actions]
    Plan(actions=plan.actions).run()
    return {"actions": actions, "reasons": plan.restart_reasons, "target": plan.disk and plan.disk.target}

def link(path, file):
    os.symlink(file, path + ".new")
    os.rename(path + ".new", path)

def files(*names):
    return [DiskFile(path, backing) for path, backing in names]

def main():
"""

#: The end of each program: it prints the result, or the error.
TAIL = """

try:
    main()
except VmstoreError as error:
    result.update(error=type(error).__name__, says=str(error))
print(json.dumps(result))
"""

#: A guest agent that freezes the file system of its argument (linux/fs.h: FIFREEZE, FITHAW). ``hang`` as the second
#: argument is an agent that never responds to a request to freeze.
AGENT = r"""
import fcntl, glob, json, os, sys
port = next(path for path in glob.glob("/sys/class/virtio-ports/*") if "guest_agent" in open(path + "/name").read())
device = open("/dev/" + os.path.basename(port), "r+b", buffering=0)
root = os.open(sys.argv[1], os.O_RDONLY)
frozen, rest = False, b""
while True:
    data = os.read(device.fileno(), 4096)
    if not data:
        __import__("time").sleep(0.1)  # the host has closed its end
        continue
    *lines, rest = (rest + data).split(b"\n")
    for line in filter(None, (line.strip(b"\xff ") for line in lines)):
        request = json.loads(line)
        name, answer = request["execute"], {}
        if name.startswith("guest-sync"):
            answer = request["arguments"]["id"]
        elif name == "guest-fsfreeze-freeze":
            if sys.argv[2:] == ["hang"]:
                continue
            fcntl.ioctl(root, 0xC0045877)
            frozen, answer = True, 1
        elif name == "guest-fsfreeze-thaw":
            answer = int(frozen)
            if frozen:
                fcntl.ioctl(root, 0xC0045878)
            frozen = False
        elif name == "guest-fsfreeze-status":
            answer = "frozen" if frozen else "thawed"
        os.write(device.fileno(), json.dumps({"return": answer}).encode() + b"\n")
"""

__all__ = ["AGENT", "HEAD", "TAIL"]

# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""Disks of running domains in the lab, for the tests in tests/integration. The engine runs on the hosts."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable
from dataclasses import dataclass

#: XML of a domain that runs without a guest system. The tests look at its QEMU only. {0}: name, {1}: memory backing,
#: {2}: devices.
DOMAIN = """
<domain type='qemu' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>{0}</name>
  <metadata><my:app xmlns:my='http://example.org/app'><my:owner>alice</my:owner></my:app></metadata>
  <memory unit='MiB'>64</memory>{1}
  <os><type arch='x86_64' machine='q35'>hvm</type></os>
  <features><acpi/></features>
  <devices>
    <controller type='pci' index='0' model='pcie-root'/>
    <controller type='usb' model='none'/>
    <memballoon model='none'/>
    <graphics type='vnc' autoport='yes' passwd='secret'/>{2}
  </devices>
  <qemu:commandline><qemu:env name='GRANARY' value='a &lt; b'/></qemu:commandline>
</domain>
"""
PORT = "<controller type='pci' index='{}' model='pcie-root-port'/>"

#: The collection's directory on the hosts.
LIBRARY = "/srv/engine"

#: The directory of datastores, and of the VM whose disk.0 is the disk vda of the domains.
STORE = "/srv/vmdisks"
VM = f"{STORE}/0/6"

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

ATTACH = "result.update(run(plan_attachment(domain, Disk(**json.loads(paths[0])))))"

DETACH = "result.update(run(plan_detachment(domain, paths[0])))"

SNAPSHOT = """
path, backing, overlay = paths
os.system(f"qemu-img create -q -f qcow2 -F qcow2 -b {path}.snap/{backing} -u {path}.snap/{overlay} 16M")
os.system(f"cd {path}.snap && qemu-img rebase -u -f qcow2 -F qcow2 -b disk.0.snap/{backing} {overlay}")
create_snapshot(find_running_disk(domain, path), f"{path}.snap/{overlay}",
    lambda: link(path, f"disk.0.snap/{overlay}"))
"""

MERGE = """
path, base, present, image = paths[0], int(paths[1]), paths[2].split(), paths[3]
names = [(f"{path}.snap/{one}", f"disk.0.snap/{other}") for one, other in zip(present, present[1:])]
names += [(f"{path}.snap/{present[-1]}", image), (image, None)]
merge_files(find_running_disk(domain, path), files(*names), base, deadline=60,
    progress=lambda done, all: result.update(progress=[done, all]))
"""

COPY = """
path, target, format = paths[:3]
result["size"] = find_running_disk(domain, path).capacity()
copy_disk(find_running_disk(domain, path), target, format, deadline=float(paths[3]),
    quiesce=paths[4] if paths[4:] else None, progress=lambda *bytes: result.update(progress=bytes))
"""

RESIZE = "find_running_disk(domain, paths[0]).resize(int(paths[1]))"

QUIESCE = """
method, deadline = paths[0], float(paths[1])
with quiesced(domain, method=method, deadline=deadline) as way:
    result.update(way=way, inside=os.popen(paths[2]).read().split())
    time.sleep(float(paths[3]))
"""

#: A child that dies in the block, with its process group. The program waits until the guest is let go.
KILLED = """
reading, writing = os.pipe()
child = os.fork()
if child == 0:
    os.setpgid(0, 0)
    with quiesced(domain, method=paths[0]):
        os.write(writing, b"x")
        time.sleep(600)
os.read(reading, 1)
result["before"] = os.popen(paths[1]).read().split()
os.killpg(child, signal.SIGKILL)
os.waitpid(child, 0)
end = time.monotonic() + 30
while (state := os.popen(paths[1]).read().split()) == result["before"] and time.monotonic() < end:
    time.sleep(0.05)
result["after"] = state
"""

#: A directory of a VM: an image, and a disk whose newest file is the overlay disk.0.snap/0.
_LAYOUT = f"""
mkdir -p {STORE}/1 {VM}/disk.0.snap; cd {VM}; qemu-img create -q -f qcow2 {STORE}/1/image 16M
qemu-io -f qcow2 -c "write -P 1 0 64k" {STORE}/1/image
qemu-img create -q -f qcow2 -F qcow2 -b {STORE}/1/image disk.0.snap/0
ln -s . disk.0.snap/disk.0.snap; ln -s disk.0.snap/0 disk.0
"""

#: Kill the programs that have a file open, and wait until libvirt has noticed the end of a domain.
_KILL = """
fuser --silent --kill "$1"
for try in $(seq 300); do [ "$(virsh domstate "$0")" = "shut off" ] && exit; sleep 0.05; done; exit 1
"""


@dataclass(frozen=True)
class Machine:
    """A domain on a host of the lab whose disk vda is the disk.0 of the VM. ``path`` is the path of this disk.

    The domain has no guest system. Its QEMU writes on request, like a guest does.
    """

    host: str
    name: str
    execute: Callable[..., str]
    path: str = f"{VM}/disk.0"

    def run(self, *command: str, **options: object) -> str:
        """Run a command on the host."""
        return self.execute(self.host, *command, **options)

    def shell(self, script: str, *arguments: str) -> str:
        return self.run("sh", "-ec", script, *arguments)

    def virsh(self, action: str, *arguments: str) -> str:
        """Run virsh for the domain."""
        return self.run("virsh", action, self.name, *arguments)

    def engine(self, body: str, *arguments: object) -> dict:
        """Run the body of a function with the engine, and return its result."""
        script = HEAD + textwrap.indent(textwrap.dedent(body), "    ") + TAIL
        command = ["env", f"PYTHONPATH={LIBRARY}", "python3", "-c", script, self.name, *map(str, arguments)]
        return json.loads(self.run(*command, deadline=120))

    def lay_out(self) -> None:
        """Create the directory of the VM."""
        self.shell(_LAYOUT)

    def attach(self, **options: object) -> dict:
        return self.engine(ATTACH, json.dumps(options))

    def detach(self, path: str) -> dict:
        return self.engine(DETACH, path)

    def write(self, byte: int, number: int, size: str = "64k") -> None:
        """Let QEMU write a byte to the part ``number`` of the disk, each with 64 KiB."""
        for command in (f"write -P {byte} {number * 64}k {size}", "flush"):
            line = f'qemu-io -d /machine/peripheral/virtio-disk0/virtio-backend "{command}"'
            assert self.virsh("qemu-monitor-command", "--hmp", line).strip() == ""

    def check(self, path: str, *expected: int, format: str = "qcow2") -> None:
        """Require that the parts of an image have these bytes, and that the image has no errors."""
        reads = [part for number, byte in enumerate(expected) for part in ("-c", f"read -P {byte} {number * 64}k 64k")]
        said = self.run("qemu-io", "-r", "-U", "-f", format, *reads, path)
        assert "verification failed" not in said and said.count("read 65536/65536") == len(expected), (path, said)
        if format == "qcow2":
            assert "No errors" in self.run("qemu-img", "check", "-U", "-f", "qcow2", path)

    def snapshot(self, *numbers: int) -> None:
        """Let the file disk.0.snap/<number> become a snapshot."""
        for number in numbers:
            assert self.engine(SNAPSHOT, self.path, number, number + 1) == {}

    def merge(self, base: int, *present: int, program: str = MERGE) -> dict:
        """Merge the files above one of the files ``present``, or above the image behind them."""
        return self.engine(program, self.path, base, " ".join(map(str, present)), f"{STORE}/1/image")

    def backing(self) -> list[str]:
        """Return the backing files of the disk, relative to the datastores, as qemu-img finds them."""
        found = json.loads(self.run("qemu-img", "info", "-U", "--backing-chain", "--output=json", self.path))
        paths = [self.run("realpath", one["filename"]).strip() for one in found[1:]]
        return [path[len(STORE) + 1 :] for path in paths]

    def definition(self) -> str:
        return self.virsh("dumpxml", "--inactive", "--security-info")

    def state(self) -> str:
        return self.virsh("domstate").strip()

    def restart(self) -> None:
        self.virsh("destroy")
        self.virsh("start")

    def kill(self) -> None:
        """Kill the QEMU of the domain."""
        self.run("sh", "-c", _KILL, self.name, self.path)


__all__ = [
    "AGENT",
    "COPY",
    "DETACH",
    "KILLED",
    "LIBRARY",
    "MERGE",
    "QUIESCE",
    "RESIZE",
    "SNAPSHOT",
    "STORE",
    "VM",
    "Machine",
]

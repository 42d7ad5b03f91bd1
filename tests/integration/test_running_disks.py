# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""Disks of running domains on real libvirts: 11.3 on hv1, and 9.0 on old.

Most domains have no guest system. Their QEMU writes to the disks on request, like a guest does. virsh, qemu-img,
qemu-io and the guest itself verify the results.
"""

from __future__ import annotations

import io
import json
import shlex
import tarfile
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from lab import Lab
from running_disks import AGENT, HEAD, TAIL

Execute = Callable[..., str]
Make = Callable[..., str]
Engine = Callable[..., dict]

ROOT = Path(__file__).resolve().parents[2]
LIBRARY = "/srv/engine"
COLLECTION = "ansible_collections/granary/vmstore/plugins"
STORE = "/srv/vmdisks"
VM = f"{STORE}/0/6"
HOSTS = ["hv1", "old"]


@pytest.fixture(scope="module")
def engine(site: Lab, execute: Execute) -> Iterator[Engine]:
    """Run the body of a function on a host, with the engine, and return its result."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        archive.add(ROOT / "plugins" / "module_utils", f"{COLLECTION}/module_utils")
    for host in HOSTS:
        site.ssh(host, f"mkdir -p {LIBRARY}; tar -x -C {LIBRARY}", stdin=data.getvalue())

    def run(host: str, body: str, domain: str, *arguments: str, deadline: float = 120) -> dict:
        script = HEAD + textwrap.indent(textwrap.dedent(body), "    ") + TAIL
        command = ["env", f"PYTHONPATH={LIBRARY}", "python3", "-c", script, domain, *arguments]
        return json.loads(execute(host, *command, deadline=deadline))

    yield run
    for host in HOSTS:
        execute(host, "rm", "-rf", LIBRARY)


@pytest.fixture(params=HOSTS)
def host(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def store(execute: Execute) -> Iterator[Callable[[str], None]]:
    """Create the directory of a VM with an image below it on a host, and delete it after the test."""
    made = []

    def make(host: str) -> None:
        made.append(host)
        script = (
            f"mkdir -p {STORE}/1 {VM}/disk.0.snap; cd {VM}; qemu-img create -q -f qcow2 {STORE}/1/image 16M; "
            f"qemu-io -f qcow2 -c 'write -P 1 0 64k' {STORE}/1/image; "
            f"qemu-img create -q -f qcow2 -F qcow2 -b {STORE}/1/image disk.0.snap/0; "
            "ln -s . disk.0.snap/disk.0.snap; ln -s disk.0.snap/0 disk.0"
        )
        execute(host, "sh", "-ec", script)

    yield make
    for host in made:
        execute(host, "rm", "-rf", STORE)


ATTACH = "result.update(run(plan_attachment(domain, Disk(**json.loads(paths[0])))))"
DETACH = "result.update(run(plan_detachment(domain, paths[0])))"


@pytest.fixture
def machine(store: Callable[[str], None], domain: Make, engine: Engine, execute: Execute, host: str) -> str:
    """Start a domain without a guest system, whose disk vda is the disk.0 of the VM, and return its name."""
    store(host)
    name = domain(host, "it's 6; $(id)")
    attached = engine(host, ATTACH, name, json.dumps({"source": f"{VM}/disk.0", "format": "qcow2"}))
    assert attached == {"actions": ["add disk"], "reasons": [], "target": "vda"}
    execute(host, "virsh", "start", name)
    return name


@pytest.fixture
def write(execute: Execute) -> Callable[..., None]:
    """Let QEMU write a byte to 64 KiB of a disk of a running domain, as a guest does."""

    def run(host: str, name: str, byte: int, number: int, device: str = "virtio-disk0") -> None:
        for command in (f"write -P {byte} {number * 64}k 64k", "flush"):
            line = f'qemu-io -d /machine/peripheral/{device}/virtio-backend "{command}"'
            assert execute(host, "virsh", "qemu-monitor-command", "--hmp", name, line).strip() == ""

    return run


@pytest.fixture
def content(execute: Execute) -> Callable[..., list[int]]:
    """Check that the bytes of an image are those of a list, each 64 KiB, and that the image has no errors."""

    def check(host: str, path: str, *bytes_: int, format: str = "qcow2") -> None:
        reads = [part for number, byte in enumerate(bytes_) for part in ("-c", f"read -P {byte} {number * 64}k 64k")]
        said = execute(host, "qemu-io", "-r", "-U", "-f", format, *reads, path)
        assert "verification failed" not in said and said.count("read 65536/65536") == len(bytes_), (path, said)
        if format == "qcow2":
            assert "No errors" in execute(host, "qemu-img", "check", "-U", "-f", "qcow2", path)

    return check


SNAPSHOT = """
path, backing, overlay = paths
os.system(f"qemu-img create -q -f qcow2 -F qcow2 -b {path}.snap/{backing} -u {path}.snap/{overlay} 16M")
os.system(f"cd {path}.snap && qemu-img rebase -u -f qcow2 -F qcow2 -b disk.0.snap/{backing} {overlay}")
create_snapshot(find_running_disk(domain, path), f"{path}.snap/{overlay}",
    lambda: link(path, f"disk.0.snap/{overlay}"))
"""


def snapshots(engine: Engine, host: str, name: str, *numbers: int) -> None:
    for number in numbers:
        assert engine(host, SNAPSHOT, name, f"{VM}/disk.0", str(number), str(number + 1)) == {}


MERGE = """
path, newest, base = paths[0], int(paths[1]), int(paths[2])
present = [int(one) for one in paths[3].split()]
names = [(f"{path}.snap/{one}", f"disk.0.snap/{other}") for one, other in zip(present, present[1:])]
names += [(f"{path}.snap/{present[-1]}", paths[4]), (paths[4], None)]
merge_files(find_running_disk(domain, path), files(*names), base, deadline=60,
    progress=lambda done, all: result.update(progress=[done, all]))
"""


def merge(engine: Engine, host: str, name: str, base: int, *present: int) -> dict:
    """Merge the files above one of ``present``, whose number is ``base``, or above the image."""
    return engine(
        host, MERGE, name, f"{VM}/disk.0", str(present[0]), str(base), " ".join(map(str, present)), f"{STORE}/1/image"
    )


def defined_disk(execute: Execute, host: str, name: str) -> str:
    return execute(host, "virsh", "domblklist", name, "--inactive").splitlines()[2].split()[1]


def backing(execute: Execute, host: str, path: str) -> list[str]:
    """Return the chain of a disk as qemu-img finds it, without its first file."""
    found = json.loads(execute(host, "qemu-img", "info", "-U", "--backing-chain", "--output=json", path))
    return [execute(host, "realpath", one["filename"]).strip() for one in found[1:]]


def kill(execute: Execute, host: str, name: str) -> None:
    """Kill the QEMU of a domain, and wait until libvirt has noticed."""
    script = (
        'fuser --silent --kill "$1"; '
        'for try in $(seq 300); do [ "$(virsh domstate "$0")" = "shut off" ] && exit; sleep 0.05; done; exit 1'
    )
    execute(host, "sh", "-c", script, name, f"{VM}/disk.0")


# Snapshots


def test_snapshots_of_a_running_domain_and_a_restart(
    engine: Engine,
    machine: str,
    host: str,
    execute: Execute,
    write: Callable[..., None],
    content: Callable[..., None],
) -> None:
    write(host, machine, 2, 1)
    snapshots(engine, host, machine, 0)
    write(host, machine, 3, 2)
    snapshots(engine, host, machine, 1)
    write(host, machine, 4, 3)
    content(host, f"{VM}/disk.0.snap/0", 1, 2, 0, 0)
    content(host, f"{VM}/disk.0.snap/1", 1, 2, 3, 0)
    content(host, f"{VM}/disk.0", 1, 2, 3, 4)
    # libvirt wrote the chain into the definition, with the name that leads to another file by now.
    assert defined_disk(execute, host, machine) == f"{VM}/disk.0"
    assert "<backingStore" not in execute(host, "virsh", "dumpxml", "--inactive", machine)
    execute(host, "virsh", "destroy", machine)
    execute(host, "virsh", "start", machine)
    write(host, machine, 5, 3)
    execute(host, "virsh", "destroy", machine)
    content(host, f"{VM}/disk.0.snap/1", 1, 2, 3, 0)
    content(host, f"{VM}/disk.0", 1, 2, 3, 5)


@pytest.mark.parametrize(
    ("base", "chain"),
    [(2, ["disk.0.snap/1", "disk.0.snap/0", "1/image"]), (3, ["disk.0.snap/0", "1/image"]), (4, ["1/image"]), (5, [])],
)
def test_files_are_merged_into_the_newest_one(
    engine: Engine,
    machine: str,
    host: str,
    execute: Execute,
    write: Callable[..., None],
    content: Callable[..., None],
    base: int,
    chain: list[str],
) -> None:
    """The path of disk.0.snap/0 is wrong in libvirt, which opened it as disk.0."""
    write(host, machine, 2, 1)
    for number in range(3):
        snapshots(engine, host, machine, number)
        write(host, machine, 3 + number, 2 + number)
    sums = execute(host, "sh", "-c", f"cd {VM}/disk.0.snap; sha256sum 0 1 2 {STORE}/1/image")
    result = merge(engine, host, machine, base, 3, 2, 1, 0)
    assert "error" not in result
    assert backing(execute, host, f"{VM}/disk.0") == [
        f"{STORE}/{one}" if one == "1/image" else f"{VM}/{one}" for one in chain
    ]
    assert execute(host, "sh", "-c", f"cd {VM}/disk.0.snap; sha256sum 0 1 2 {STORE}/1/image") == sums
    # The data is in the file, and the domain starts with the merged chain.
    kill(execute, host, machine)
    content(host, f"{VM}/disk.0", 1, 2, 3, 4, 5, 0)
    execute(host, "virsh", "start", machine)
    write(host, machine, 9, 5)
    execute(host, "virsh", "destroy", machine)
    content(host, f"{VM}/disk.0", 1, 2, 3, 4, 5, 9)
    content(host, f"{VM}/disk.0.snap/2", 1, 2, 3, 4, 0, 0)


def test_files_that_the_domain_does_not_have_open_are_refused(
    engine: Engine, machine: str, host: str, execute: Execute
) -> None:
    snapshots(engine, host, machine, 0, 1)
    for present in ((2, 1), (2, 0, 1)):
        refused = merge(engine, host, machine, 2, *present)
        assert refused["error"] == "Conflict" and f"{VM}/disk.0.snap/2" in refused["says"], refused
    assert backing(execute, host, f"{VM}/disk.0")[0] == f"{VM}/disk.0.snap/1"


def test_a_base_whose_name_leads_elsewhere_is_refused(
    engine: Engine, machine: str, host: str, execute: Execute, write: Callable[..., None]
) -> None:
    """With absolute names, QEMU would write the name disk.0 into the header, which leads to the file itself."""
    absolute = SNAPSHOT.replace("-b disk.0.snap/{backing}", "-b {path}.snap/{backing}")
    for number in (0, 1):
        assert engine(host, absolute, machine, f"{VM}/disk.0", str(number), str(number + 1)) == {}
    names = MERGE.replace('f"disk.0.snap/{other}"', 'f"{path}.snap/{other}"')
    arguments = ("2 1 0", f"{STORE}/1/image")
    refused = engine(host, names, machine, f"{VM}/disk.0", "2", "2", *arguments)
    assert refused["error"] == "Conflict" and f"{VM}/disk.0.snap/0" in refused["says"], refused
    assert backing(execute, host, f"{VM}/disk.0")[0] == f"{VM}/disk.0.snap/1"
    # Down to a file whose name is right, the names in the headers may be absolute.
    assert "error" not in engine(host, names, machine, f"{VM}/disk.0", "2", "3", *arguments)
    assert backing(execute, host, f"{VM}/disk.0") == [f"{STORE}/1/image"]


COPY = """
path, target, format = paths[:3]
result["size"] = find_running_disk(domain, path).capacity()
copy_disk(find_running_disk(domain, path), target, format, deadline=float(paths[3]),
    quiesce=paths[4] if paths[4:] else None, progress=lambda *bytes: result.update(progress=bytes))
"""
RESIZE = "find_running_disk(domain, paths[0]).resize(int(paths[1]))"


def test_a_job_under_way_is_named(engine: Engine, machine: str, host: str, execute: Execute) -> None:
    snapshots(engine, host, machine, 0)
    execute(host, "virsh", "blockcopy", machine, "vda", f"{VM}/copy", "--transient-job", "--wait")
    sentence = (
        f"The disk 'vda' of the domain {machine!r} has a block copy under way: wait for its end, or stop it with "
        "'virsh blockjob --abort'."
    )
    for refused in (
        merge(engine, host, machine, 2, 1, 0),
        engine(host, RESIZE, machine, f"{VM}/disk.0", str(32 << 20)),
        engine(host, COPY, machine, f"{VM}/disk.0", f"{VM}/other", "raw", "60"),
        engine(host, SNAPSHOT, machine, f"{VM}/disk.0", "1", "2"),
        engine(host, DETACH, machine, f"{VM}/disk.0"),
    ):
        assert (refused["error"], refused["says"]) == ("Conflict", sentence)
    execute(host, "virsh", "blockjob", machine, "vda", "--abort")
    assert "error" not in merge(engine, host, machine, 2, 1, 0)


def test_a_merge_at_its_deadline_is_stopped(
    engine: Engine, machine: str, host: str, execute: Execute, content: Callable[..., None]
) -> None:
    assert engine(host, RESIZE, machine, f"{VM}/disk.0", str(256 << 20)) == {}
    line = 'qemu-io -d /machine/peripheral/virtio-disk0/virtio-backend "write -P 7 0 192M"'
    execute(host, "virsh", "qemu-monitor-command", "--hmp", machine, line)
    snapshots(engine, host, machine, 0)
    slow = MERGE.replace("deadline=60", "deadline=0")
    arguments = (f"{VM}/disk.0", "1", "2", "1 0", f"{STORE}/1/image")
    refused = engine(host, slow, machine, *arguments)
    assert refused["error"] == "TimedOut" and "'vda'" in refused["says"], refused
    assert refused["progress"][0] < refused["progress"][1] <= 256 << 20
    assert backing(execute, host, f"{VM}/disk.0")[0] == f"{VM}/disk.0.snap/0"
    assert "No current block job" in execute(host, "virsh", "blockjob", machine, "vda")
    execute(host, "virsh", "suspend", machine)
    paused = merge(engine, host, machine, 2, 1, 0)
    assert paused["error"] == "Conflict" and "'vda'" in paused["says"]
    execute(host, "virsh", "resume", machine)
    assert "error" not in merge(engine, host, machine, 2, 1, 0)
    content(host, f"{VM}/disk.0", 7, 7)


# Size and copies


def test_a_disk_grows_while_the_domain_runs(engine: Engine, machine: str, host: str, execute: Execute) -> None:
    assert engine(host, RESIZE, machine, f"{VM}/disk.0", str(32 << 20)) == {}
    assert f"Capacity:       {32 << 20}" in execute(host, "virsh", "domblkinfo", machine, "vda")
    assert engine(host, RESIZE, machine, f"{VM}/disk.0", str(32 << 20)) == {}
    refused = engine(host, RESIZE, machine, f"{VM}/disk.0", str(16 << 20))
    assert refused["error"] == "InvalidInput" and str(32 << 20) in refused["says"]
    execute(host, "virsh", "destroy", machine)
    assert json.loads(execute(host, "qemu-img", "info", "--output=json", f"{VM}/disk.0"))["virtual-size"] == 32 << 20
    gone = engine(host, RESIZE, machine, f"{VM}/disk.0", str(64 << 20))
    assert gone["error"] == "NotFound" and machine in gone["says"]


@pytest.mark.parametrize("format", ["raw", "qcow2"])
def test_a_copy_of_a_running_disk(
    engine: Engine,
    machine: str,
    host: str,
    execute: Execute,
    write: Callable[..., None],
    content: Callable[..., None],
    format: str,
) -> None:
    write(host, machine, 2, 1)
    snapshots(engine, host, machine, 0)
    write(host, machine, 3, 2)
    execute(host, "qemu-img", "create", "-q", "-f", format, f"{VM}/copy", "16M")
    copied = engine(host, COPY, machine, f"{VM}/disk.0", f"{VM}/copy", format, "60", "suspend")
    assert "error" not in copied and copied["size"] == 16 << 20
    assert execute(host, "virsh", "domstate", machine).strip() == "running"
    write(host, machine, 4, 1)
    content(host, f"{VM}/copy", 1, 2, 3, 0, format=format)
    allocated = int(execute(host, "du", "-k", f"{VM}/copy").split()[0])
    assert (allocated < 1024) == (format == "qcow2")
    content(host, f"{VM}/disk.0", 1, 4, 3, 0)


def test_a_copy_without_space(
    engine: Engine, machine: str, host: str, execute: Execute, write: Callable[..., None]
) -> None:
    for number in range(32):
        write(host, machine, 5, number)
    execute(
        host, "sh", "-ec", f"mkdir {VM}/full; mount -t tmpfs -o size=1M none {VM}/full; truncate -s 16M {VM}/full/x"
    )
    try:
        refused = engine(host, COPY, machine, f"{VM}/disk.0", f"{VM}/full/x", "raw", "60")
        assert refused["error"] == "LibvirtFailed" and f"{VM}/full/x" in refused["says"], refused
        assert execute(host, "virsh", "domjobinfo", machine).split()[2] == "None"
        assert execute(host, "virsh", "domstate", machine).strip() == "running"
    finally:
        execute(host, "umount", "-l", f"{VM}/full")


# A guest that doesn't write


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


def test_a_suspended_domain_runs_again(engine: Engine, machine: str, host: str, execute: Execute) -> None:
    state = shlex.join(["virsh", "domstate", machine])
    assert engine(host, QUIESCE, machine, "auto", "60", state, "0") == {"way": "suspend", "inside": ["paused"]}
    assert execute(host, "virsh", "domstate", machine).strip() == "running"
    late = engine(host, QUIESCE, machine, "suspend", "0.2", state, "1")
    assert late["error"] == "TimedOut" and machine in late["says"]
    assert execute(host, "virsh", "domstate", machine).strip() == "running"
    assert engine(host, KILLED, machine, "suspend", state) == {"before": ["paused"], "after": ["running"]}
    refused = engine(host, QUIESCE, machine, "agent", "60", state, "0")
    assert refused["error"] == "UnsupportedAction" and machine in refused["says"]
    # A domain that was paused before stays paused.
    execute(host, "virsh", "suspend", machine)
    assert engine(host, QUIESCE, machine, "auto", "60", state, "0") == {"way": "halted", "inside": ["paused"]}
    assert execute(host, "virsh", "domstate", machine).strip() == "paused"
    snapshots(engine, host, machine, 0)
    assert execute(host, "virsh", "domstate", machine).strip() == "paused"
    execute(host, "virsh", "destroy", machine)
    assert engine(host, QUIESCE, machine, "auto", "60", state, "0")["error"] == "NotFound"


@pytest.fixture(scope="module")
def guest(site: Lab, execute: Execute) -> Iterator[str]:
    """Start the guest `cold`, which has a channel for a guest agent, and restore its definition at the end."""
    cold = site.guest("cold")
    definition = execute("hv1", "virsh", "dumpxml", "--inactive", "--security-info", cold.name)
    cold.start()
    cold.wait_ready()
    yield cold.name
    execute("hv1", "virsh", "destroy", cold.name, check=False)
    execute("hv1", "virsh", "define", "/dev/stdin", stdin=definition)


@pytest.fixture
def agent(site: Lab, guest: str, execute: Execute) -> Iterator[Callable[..., None]]:
    """Run a guest agent for a file system of the guest."""

    def start(*arguments: str) -> None:
        site.ssh(guest, "modprobe virtio_console; cat >/tmp/agent.py", stdin=AGENT.encode())
        stop()
        site.ssh(guest, f"setsid python3 /tmp/agent.py {shlex.join(arguments)} >/tmp/agent.log 2>&1 </dev/null &")
        connected = f"until virsh dumpxml {guest} | grep -q \"guest_agent.0' state='connected'\"; do sleep 0.05; done"
        execute("hv1", "timeout", "30", "sh", "-c", connected)

    def stop() -> None:
        site.ssh(guest, "pkill -f [a]gent.py; while pgrep -f [a]gent.py; do sleep 0.1; done", check=False)

    yield start
    stop()


@pytest.fixture
def plugged(
    store: Callable[[str], None], guest: str, engine: Engine, execute: Execute
) -> Iterator[Callable[..., dict]]:
    """Attach disks to the guest, and detach them after the test."""
    store("hv1")
    made = []

    def attach(**options: object) -> dict:
        made.append(options["source"])
        return engine("hv1", ATTACH, guest, json.dumps(options))

    yield attach
    for path in made:
        assert "error" not in engine("hv1", DETACH, guest, path)


STATUS = 'virsh qemu-agent-command cold \'{"execute": "guest-fsfreeze-status"}\''


def test_a_guest_agent_freezes_the_guest(
    site: Lab, guest: str, engine: Engine, plugged: Callable[..., dict], agent: Callable[..., None], execute: Execute
) -> None:
    disk = f"{VM}/disk.1"
    execute("hv1", "sh", "-ec", f"truncate -s 32M {disk}; mkfs.ext4 -q -F {disk}; chmod 666 {disk}")
    target = plugged(source=disk, format="raw")["target"]
    site.ssh(guest, f"mkdir -p /mnt/frozen; until mount /dev/{target} /mnt/frozen 2>/dev/null; do sleep 0.1; done")
    try:
        agent("/mnt/frozen")
        frozen, thawed = ['{"return":"frozen"}'], ['{"return":"thawed"}']
        assert engine("hv1", QUIESCE, guest, "auto", "60", STATUS, "0") == {"way": "agent", "inside": frozen}
        assert execute("hv1", "sh", "-c", STATUS).split() == thawed
        assert engine("hv1", KILLED, guest, "agent", STATUS) == {"before": frozen, "after": thawed}
        late = engine("hv1", QUIESCE, guest, "agent", "2", STATUS, "3")
        assert late["error"] == "TimedOut" and execute("hv1", "sh", "-c", STATUS).split() == thawed
        # The file system of the copy is clean, and has what the guest has only in memory.
        site.ssh(guest, "echo unwritten >/mnt/frozen/file")
        execute("hv1", "qemu-img", "create", "-q", "-f", "raw", f"{VM}/copy", "32M")
        assert "error" not in engine("hv1", COPY, guest, disk, f"{VM}/copy", "raw", "60", "agent")
        assert "clean" in execute("hv1", "e2fsck", "-n", f"{VM}/copy")
        assert execute("hv1", "debugfs", "-R", "cat file", f"{VM}/copy") == "unwritten\n"
        # An agent that never responds: the domain is suspended instead.
        agent("/mnt/frozen", "hang")
        state = "virsh domstate cold"
        assert engine("hv1", QUIESCE, guest, "auto", "8", state, "0") == {"way": "suspend", "inside": ["paused"]}
        assert execute("hv1", "virsh", "domstate", guest).strip() == "running"
        refused = engine("hv1", QUIESCE, guest, "agent", "8", state, "0")
        assert refused["error"] == "LibvirtFailed" and "'cold'" in refused["says"]
    finally:
        site.ssh(guest, "pkill -f [a]gent.py; umount /mnt/frozen", check=False)


# Attachment


def test_a_running_guest_gets_disks_and_loses_them(
    site: Lab, guest: str, engine: Engine, plugged: Callable[..., dict], execute: Execute
) -> None:
    before = execute("hv1", "virsh", "dumpxml", guest, "--inactive")
    script = (
        f"cd {VM}; echo secret >secret; chmod 600 secret; qemu-img create -q -f qcow2 -F raw -b {VM}/secret raw 1M; "
        f"truncate -s 1M raw; echo hello >one; truncate -s 2M one; cp one two; chmod 666 raw one two"
    )
    execute("hv1", "sh", "-ec", script)
    # The disk is raw by the record, whatever header the guest writes into it.
    raw = {"source": f"{VM}/raw", "format": "raw", "serial": "granary-1"}
    assert plugged(**raw) == {"actions": ["add disk", "plug disk"], "reasons": [], "target": "vdb"}
    assert plugged(**raw) == {"actions": [], "reasons": [], "target": "vdb"}
    found = "until [ -e /sys/block/{0} ]; do sleep 0.1; done; blockdev --getsize64 /dev/{0}; head -c 5 /dev/{0}"
    assert "QFI" in site.ssh(guest, found.format("vdb"))
    assert site.ssh(guest, "blockdev --getsize64 /dev/vdb; cat /sys/block/vdb/serial").split() == [
        str(1 << 20),
        "granary-1",
    ]
    for path, actions in (
        ("one", ["add disk", "plug controller", "plug disk"]),
        ("two", ["add disk", "plug disk"]),
    ):
        attached = plugged(source=f"{VM}/{path}", format="raw", bus="scsi")
        assert attached["actions"] == actions, attached
    site.ssh(guest, "modprobe virtio_scsi; modprobe sd_mod")
    assert [site.ssh(guest, found.format(name)) for name in ("sda", "sdb")] == [f"{2 << 20}\nhello"] * 2
    assert engine("hv1", DETACH, guest, f"{VM}/one") == {
        "actions": ["unplug disk", "remove disk"],
        "reasons": [],
        "target": "sda",
    }
    site.ssh(guest, "[ ! -e /sys/block/sda ] && [ -e /sys/block/sdb ]")
    assert engine("hv1", DETACH, guest, f"{VM}/one") == {"actions": [], "reasons": [], "target": None}
    for path in ("raw", "two"):
        assert "error" not in engine("hv1", DETACH, guest, f"{VM}/{path}")
    site.ssh(guest, "[ ! -e /sys/block/vdb ] && [ ! -e /sys/block/sdb ]")
    after = execute("hv1", "virsh", "dumpxml", guest, "--inactive")
    assert set(before.splitlines()) <= set(after.splitlines()) and "<source file='/srv" not in after

# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""Disks of running domains on real libvirts: 11.3 on hv1, and 9.0 on old.

Most domains have no guest system. Their QEMU writes to the disks on request, like a guest does. virsh, qemu-img,
qemu-io and the guest itself verify the results.
"""

from __future__ import annotations

import io
import json
import tarfile
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from lab import Lab
from running_disks import HEAD, TAIL

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
    assert "error" not in result and result["progress"][1] > 0
    assert backing(execute, host, f"{VM}/disk.0") == [
        f"{STORE}/{one}" if one == "1/image" else f"{VM}/{one}" for one in chain
    ]
    assert execute(host, "sh", "-c", f"cd {VM}/disk.0.snap; sha256sum 0 1 2 {STORE}/1/image") == sums
    # The domain goes on with the merged chain, live and after a restart.
    write(host, machine, 9, 5)
    execute(host, "virsh", "destroy", machine)
    execute(host, "virsh", "start", machine)
    execute(host, "virsh", "destroy", machine)
    content(host, f"{VM}/disk.0", 1, 2, 3, 4, 5, 9)
    content(host, f"{VM}/disk.0.snap/2", 1, 2, 3, 4, 0, 0)

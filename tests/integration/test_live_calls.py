# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every recorded call of snap_create_live (driver_calls/live/), repeated with the installed drivers while a real domain
has the disk open.

The hypervisor of the lab is the front-end and also the hosts h1 and h3, which it reaches over ssh. The domain has no
guest system. Its QEMU writes on request, like a guest does.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from running_disks import Machine
from transfer_cluster import vm_document

CALLS = {
    path.stem.removeprefix("tm-"): json.loads(path.read_text())
    for path in sorted((Path(__file__).parent / "driver_calls" / "live").glob("tm-*.json"))
}
HOST = "hv1"
DATASTORES = "/var/lib/one/datastores"
REMOTES = "/srv/live/remotes"

#: The part of the disk, each with 64 KiB, that QEMU writes to.
PART = 10

#: Let the machine reach itself as the hosts h1 and h3.
SET_UP = f"""
mkdir -p {REMOTES}/datastore {REMOTES}/tm /root/.ssh; cd /srv/live; rm -f key key.pub
ssh-keygen -q -t ed25519 -N "" -f key; cat key.pub >> /root/.ssh/authorized_keys
printf 'Host h1 h3\\n  HostName 127.0.0.1\\n  IdentityFile /srv/live/key\\n  StrictHostKeyChecking accept-new\\n' \\
    >> /root/.ssh/config
echo oneadmin:secret > auth
"""

#: The front-end's API: it returns the document in a file.
API = """
from xmlrpc.server import SimpleXMLRPCRequestHandler, SimpleXMLRPCServer
class Handler(SimpleXMLRPCRequestHandler):
    rpc_paths = ("/RPC2",)
server = SimpleXMLRPCServer(("127.0.0.1", 2633), Handler, logRequests=False)
server.register_function(lambda *_arguments: [True, open("/srv/live/vm.xml").read(), 0], "one.vm.info")
server.serve_forever()
"""

#: Remove the key, and the files of the tests.
CLEAN_UP = f"""
systemctl stop live-api; grep -vF -f /srv/live/key.pub /root/.ssh/authorized_keys > /srv/live/rest || true
cat /srv/live/rest > /root/.ssh/authorized_keys; rm -rf /root/.ssh/config /srv/live {DATASTORES}
"""

#: Print the names below the datastores, each with its kind and the target of a link.
LOOK = f"cd {DATASTORES}; find . -mindepth 2 ! -name '.*' -printf '%P\\t%y\\t%l\\n'"


@pytest.fixture(scope="module")
def front_end(execute: Callable[..., str], module: Callable[..., dict[str, Any]]) -> Iterator[Callable[..., str]]:
    """Install the drivers on the hypervisor, and return a function that runs a command there."""

    def run(*argv: str, **options: Any) -> str:
        return execute(HOST, *argv, **options)

    run("sh", "-ec", SET_UP)
    places = {"remotes": REMOTES, "library": "/srv/live/library", "kept": "/srv/live/kept"}
    assert module(HOST, "opennebula_drivers", **places)["changed"]
    run("systemd-run", "--unit=live-api", "python3", "-c", API)
    yield run
    run("sh", "-c", CLEAN_UP)


@dataclass(frozen=True)
class Call:
    """A recorded call, and the disk before it.

    :arg layers: the number of the newest layer; ``None`` for a disk that doesn't consist of layers.
    :arg image: the path of the image that the disk is a link to.
    """

    driver: str
    action: str
    argv: list[str]
    added: set[str]
    changed: dict[str, str]
    disk: str
    layers: int | None
    image: str | None

    @property
    def snapshot(self) -> int:
        return int(self.argv[1])

    @property
    def files(self) -> str:
        """Return the path of the files with the data."""
        return self.image or self.disk

    @property
    def format(self) -> str:
        return "raw" if self.layers is None else "qcow2"


def parse_call(recorded: Mapping[str, Any]) -> Call:
    """Return a call, whose paths are relative to the datastores."""
    diff, argv = recorded["fs_diff"], recorded["argv"]
    host, _colon, path = argv[0].partition(":")
    disk = path.replace("//", "/").removeprefix(f"{DATASTORES}/")
    links = {
        place.partition(":")[2]: [entry["link"].replace("//", "/") for entry in entries]
        for place, entries in diff["changed"].items()
        if "link" in entries[0]
    }
    added = {place.partition(":")[2] for place in diff["added"]}
    if host == "h3" and not added:  # its changes were not recorded
        added = {f"{disk}.snap", f"{disk}.snap/{argv[1]}"}
    old = links.get(disk, [""])[0]
    images = {found[1] for place in added if (found := re.match(r"(\d+/[0-9a-f]{32})\.snap", place))}
    image = next(iter(images), None)
    own = (f"{disk}.snap", *([f"{image}.snap"] if image else []))
    return Call(
        recorded["driver"],
        recorded["action"],
        argv,
        {place for place in added if place.startswith(own)},
        {disk: links[disk][1]} if old else {},
        disk,
        int(old.rpartition("/")[2]) if old else None,
        image,
    )


def layout(call: Call) -> Iterator[str]:
    """Yield the lines of a script that makes the disk and its image, with 16 MiB. Layer ``n`` has the byte n + 1."""
    snapshots, is_linked = f"{call.files}.snap", call.image is not None
    yield f"mkdir -p {DATASTORES}/{os.path.dirname(call.disk)} && cd {DATASTORES}"
    image = call.image or f"{call.argv[-1]}/{'0' * 32}"
    yield f"mkdir -p {os.path.dirname(image)} && qemu-img create -q -f {call.format} {image} 16M"
    if snapshots not in call.added:
        yield f"mkdir {snapshots}"
    if call.layers is None:
        yield f"ln -s {DATASTORES}/{image} {call.disk}" if is_linked else f"cp {image} {call.disk}"
        if snapshots not in call.added:
            yield f"for one in $(seq 0 {call.snapshot - 1}); do cp {image} {snapshots}/$one; done"
        return
    name = os.path.basename(call.files)
    yield f"ln -s . {snapshots}/{name}.snap"
    is_overlay = call.driver in ("shared", "qcow2") and "." not in call.action
    for layer in range(call.layers + 1):
        if layer:
            backing = f"{DATASTORES}/{snapshots}/{layer - 1}" if is_linked else f"{name}.snap/{layer - 1}"
            yield f"qemu-img create -q -f qcow2 -F qcow2 -u -b {backing} {snapshots}/{layer} 16M"
        elif is_linked:
            yield f"ln -s {DATASTORES}/{image} {snapshots}/0"
        elif is_overlay:
            yield f"qemu-img create -q -f qcow2 -F qcow2 -b {DATASTORES}/{image} {snapshots}/0"
        else:
            yield f"cp {image} {snapshots}/0"
        yield f"qemu-io -f qcow2 -c 'write -q -P {layer + 1} {layer * 64}k 64k' {snapshots}/{layer}"
    target = f"{DATASTORES}/{snapshots}" if is_linked else f"{name}.snap"
    yield f"ln -s {target}/{call.layers} {call.disk}"


@pytest.fixture(params=CALLS)
def call(request: pytest.FixtureRequest, front_end: Callable[..., str]) -> Iterator[Call]:
    found = parse_call(CALLS[request.param])
    front_end("sh", "-ec", "\n".join(layout(found)))
    yield found
    front_end("rm", "-rf", DATASTORES)


@pytest.fixture
def running(
    call: Call, front_end: Callable[..., str], domain: Callable[..., str], execute: Callable[..., str]
) -> Machine:
    """Start a domain with the disk."""
    machine = Machine(HOST, domain(HOST, f"one-{call.argv[-2]}"), execute, f"{DATASTORES}/{call.disk}")
    machine.virsh("attach-disk", machine.path, "vda", "--subdriver", call.format, "--config")
    machine.virsh("start")
    number, vm = int(call.disk.rpartition(".")[2]), int(call.argv[-2])
    source = {"SOURCE": f"{DATASTORES}/{call.image or f'{call.argv[-1]}/' + '0' * 32}"}
    sizes = {"SIZE": 16, "ORIGINAL_SIZE": 16, "FORMAT": call.format}
    document = vm_document(vm, {number: {**source, **sizes}}, state=3, lcm_state=3)
    document = document.replace("<STATE>", f"<DEPLOY_ID>{machine.name}</DEPLOY_ID><STATE>")
    front_end("tee", "/srv/live/vm.xml", stdin=document)
    return machine


def look(front_end: Callable[..., str]) -> dict[str, str]:
    """Return the kind of each path below the datastores, or the target of a link."""
    lines = (line.split("\t") for line in front_end("sh", "-ec", LOOK).splitlines())
    return {path: target if kind == "l" else kind for path, kind, target in lines}


def test_a_snapshot_of_a_running_domain(call: Call, running: Machine, front_end: Callable[..., str]) -> None:
    """A repeat of the call changes nothing."""
    environment = ["ONE_AUTH=/srv/live/auth", "ONE_XMLRPC=http://localhost:2633/RPC2"]
    command = ["env", *environment, f"{REMOTES}/tm/{call.driver}/{call.action}", *call.argv]
    running.write(0x51, PART)
    before = look(front_end)
    assert front_end(*command, deadline=120) == ""
    after = look(front_end)
    assert {path for path in after if path not in before} == call.added
    assert {path: target for path, target in after.items() if before.get(path, target) != target} == call.changed
    assert before.keys() <= after.keys()
    running.write(0x52, PART)
    snapshot = f"{DATASTORES}/{call.files}.snap/{call.snapshot}"
    layers = [0] * PART if call.layers is None else [*range(1, call.layers + 2), *[0] * PART][:PART]
    running.check(snapshot, *layers, 0x51, format=call.format)
    running.check(running.path, *layers, 0x52, format=call.format)
    newest = f"{DATASTORES}/{call.files}.snap/{call.layers + 1}" if call.layers is not None else running.path
    assert running.virsh("domblklist").split()[-1] == newest
    assert running.state() == "running"
    assert front_end(*command, deadline=120) == ""
    assert look(front_end) == after

# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""A change of several volumes that is killed at each of its steps, that finds a full file system, or that another
program disturbs, on a real libvirt.

The next run always reaches the same state. The tests of a run take samples of the killed steps; ``VOLUMES_SAMPLES=999``
walks all of them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from running_disks import LIBRARY
from volume_domain import CACHE, CATALOG, CLAIMS, DIRECTORY, VIRTIO, VolumeDomain

SAMPLES = int(os.environ.get("VOLUMES_SAMPLES", "6"))

#: A program that runs the change again and again on the host, each time from the old state. It reads its arguments from
#: stdin, and prints a list of dictionaries.
PROGRAM = """
import json, os, re, signal, subprocess, sys
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import VmstoreError
from ansible_collections.granary.vmstore.plugins.module_utils._service.volume.options import DOMAIN_VOLUMES_SPEC
from ansible_collections.granary.vmstore.plugins.module_utils._service.volume.volumes import DomainVolumesService
given = json.load(sys.stdin)
name, directory = given["new"]["domain"], given["new"]["directory"]
defaults = {option: one.get("default") for option, one in DOMAIN_VOLUMES_SPEC.argument_spec.items()}
#: Modules in C, and their functions that change files or domains, or start programs.
MODULES = ("posix", "libvirtmod", "_posixsubprocess")
CHANGES = set('''rename link symlink mkdir unlink rmdir chmod fchmod chown fchown truncate ftruncate pwrite fsync
    fork_exec virDomainDefineXMLFlags virDomainAttachDeviceFlags virDomainDetachDeviceFlags virDomainUpdateDeviceFlags
    virDomainSetMetadata virDomainBlockResize'''.split())

def shell(script, *arguments, data=None):
    done = subprocess.run(["sh", "-ec", script, *arguments], input=data, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{script}: {done.stderr}")
    return done.stdout

class Calls:
    "A profiler that counts the calls of functions, and acts before the call with the number ``step``."

    def __init__(self, functions=CHANGES, step=0, act=str):
        self.functions, self.step, self.act, self.number = functions, step, act, 0

    def __call__(self, frame, event, function):
        if event == "c_call" and function.__module__ in MODULES and function.__name__ in self.functions:
            self.number += 1
            if self.number == self.step:
                self.act(function.__name__)

def attempt(options, calls=None):
    "Run the service in a process of its own, and return its result; None if the process was killed."
    receiver, sender = os.pipe()
    child = os.fork()
    if not child:
        os.close(receiver)
        calls = calls or Calls()
        sys.setprofile(calls)
        try:
            plan = DomainVolumesService({**defaults, **options}).converge()
            found = {"actions": [action.name for action in plan.actions], "reasons": plan.result["restart_reasons"]}
        except VmstoreError as error:
            found = {"error": type(error).__name__, "says": str(error)}
        except BaseException as error:
            found = {"error": "defect", "says": repr(error)}
        sys.setprofile(None)
        os.write(sender, json.dumps({**found, "calls": calls.number}).encode())
        os._exit(0)
    os.close(sender)
    with open(receiver) as file:
        text = file.read()
    os.waitpid(child, 0)
    return json.loads(text) if text else None

def definition():
    return shell('virsh dumpxml --inactive --security-info "$0"', name)

def state():
    "Return the definition, the files of the volumes, and the claim. Each version of texts has a name of its own."
    files = shell('find "$0" -mindepth 1 -printf "%P %y %m %u %s %l\\n"', directory)
    files = sorted(re.sub("[.][.][0-9a-f]{16}", "..version", files).splitlines())
    return [definition(), files, shell("md5sum /srv/volumes/data; ls -A /srv/volumes")]

def reset():
    shell('virsh destroy "$0" 2>&1 || true; find "$1" -mindepth 1 -delete; rm -rf /srv/volumes; '
          'cp -a /srv/before/files/. "$1"; cp -a /srv/before/volumes /srv/volumes', name, directory)
    shell("virsh define /dev/stdin", data=old)
    if given["running"]:
        shell('virsh start "$0"', name)

def finish():
    "Return the results of the next two runs, and the state after them."
    return {"next": attempt(given["new"]), "again": attempt(given["new"]), "state": state()}

def samples(number):
    return range(1, number + 1, max(1, number // given["samples"]))

def kills():
    for step in samples(undisturbed["calls"]):
        reset()
        result = attempt(given["new"], Calls(CHANGES, step, lambda _name: os.kill(os.getpid(), signal.SIGKILL)))
        yield {"step": step, "result": result, **finish()}

def full():
    for limit, extra in given["limits"]:
        reset()
        before = state()
        files, used = map(int, shell('df -k --output=iused,used "$0" | tail -n 1', directory).split())
        limits = f"nr_inodes={files + extra}" if limit == "files" else f"size={used + extra}k"
        shell('mount -o "remount,$1" "$0"', directory, limits)
        result = attempt(given["new"])
        changed = state() != before
        shell('mount -o remount,size=64m,nr_inodes=100000 "$0"', directory)
        yield {"step": [limit, extra], "result": result, "changed": changed, **finish()}

def disturbances():
    def disturb(function):
        subprocess.run(["virsh", "attach-device", name, "/srv/before/foreign.xml", "--config"], capture_output=True)
    reset()
    readings = {"virDomainGetXMLDesc"}
    for step in samples(attempt(given["new"], Calls(readings))["calls"]):
        reset()
        result = attempt(given["new"], Calls(readings, step, disturb))
        yield {"step": step, "result": result, "kept": "/srv/before/foreign.img" in definition(), **finish()}

shell('rm -rf /srv/before; mkdir -p /srv/before/files "$0"; virsh destroy "$1" 2>&1 || true', directory, name)
first = attempt(given["old"])
if "error" in first:
    sys.exit(str(first))
old = definition()
shell('cp -a "$0/." /srv/before/files; cp -a /srv/volumes /srv/before/volumes; truncate -s 1M /srv/before/foreign.img',
      directory)
with open("/srv/before/foreign.xml", "w") as file:
    file.write("<disk type='file'><source file='/srv/before/foreign.img'/><target dev='vdz' bus='virtio'/></disk>")
reset()
undisturbed = attempt(given["new"])
print(json.dumps([{"step": 0, "result": undisturbed, **finish()}, *globals()[given["walk"]]()]))
"""


@pytest.fixture
def web(engine: None, domain: Callable[..., str], execute: Callable[..., str]) -> Iterator[VolumeDomain]:
    """Define a domain without volumes, on a host with two images."""
    found = VolumeDomain("hv1", domain("hv1", "web", ports=12, shared=True), execute)
    found.shell(
        "rm -rf /srv/volumes; mkdir -p /srv/volumes; chmod 755 /srv /srv/volumes; truncate -s 4M /srv/volumes/data; "
        "printf claim | dd of=/srv/volumes/data conv=notrunc status=none; "
        "qemu-img create -q -f qcow2 /srv/volumes/base 10M"
    )
    yield found
    found.shell(f"umount {DIRECTORY} 2>/dev/null || true")
    found.shell(f"rm -rf /srv/volumes /srv/before {DIRECTORY} /var/lib/libvirt/granary-test")


def options(*, kept: str, text: str, **volumes: dict[str, Any]) -> dict[str, Any]:
    """Return a declaration of disks with these volumes, a drive and a filesystem with a text, and an empty disk."""
    sources = {"kept": {"emptyDisk": {"capacity": kept}}, **volumes}
    return {
        "domain": "web",
        "directory": DIRECTORY,
        "cache": CACHE,
        "catalog": CATALOG,
        "claims": CLAIMS,
        "purge": True,
        "disks": [*({"name": name, **VIRTIO} for name in sources), {"name": "seed", "cdrom": {"bus": "sata"}}],
        "filesystems": [{"name": "texts", "virtiofs": {}}],
        "volumes": [
            *({"name": name, **source} for name, source in sources.items()),
            {"name": "seed", "cloudInitNoCloud": {"userData": f"#cloud-config\\n# {text}\\n"}},
            {"name": "texts", "configMap": {"name": "app"}},
        ],
        "config_maps": {"app": {"data": {"a.conf": text}}},
    }


OLD = options(kept="2Mi", text="old", gone={"emptyDisk": {"capacity": "1Mi"}})
#: The old state of a domain that runs without a guest system, which would never release a disk.
RUNNING = options(kept="2Mi", text="old")
NEW = options(
    kept="3Mi",
    text="new",
    claim={"persistentVolumeClaim": {"claimName": "data"}},
    overlay={"ephemeral": {"persistentVolumeClaim": {"claimName": "base"}}},
    host={"hostDisk": {"path": "/srv/volumes/host", "type": "DiskOrCreate", "capacity": "1Mi"}},
    thick={"emptyDisk": {"capacity": "1Mi"}, "thick": True},
)


def walk(web: VolumeDomain, name: str, *, running: bool = False, **more: Any) -> list[dict[str, Any]]:
    """Return the results of a walk. Each of its steps ended in the state of an undisturbed change."""
    given = {"old": RUNNING if running else OLD, "new": NEW, "walk": name, "running": running, **more}
    command = ["env", f"PYTHONPATH={LIBRARY}", "python3", "-c", PROGRAM]
    undisturbed, *steps = json.loads(web.execute(web.host, *command, stdin=json.dumps(given), deadline=900))
    assert "error" not in undisturbed["result"], undisturbed
    for step in [undisturbed, *steps]:
        assert "error" not in step["next"] and step["again"]["actions"] == [], step
        if name != "disturbances":
            assert step["state"] == undisturbed["state"], (step, undisturbed)
    return list(steps)


@pytest.mark.parametrize("running", [False, True])
def test_a_kill_at_each_step(web: VolumeDomain, running: bool) -> None:
    steps = walk(web, "kills", running=running, samples=SAMPLES)
    assert len(steps) >= min(SAMPLES, 20) and [step for step in steps if step["result"] is not None] == []


def test_a_full_file_system_at_each_step(web: VolumeDomain) -> None:
    """The file system has room for some files more, or for some kilobytes more, than the old state needs."""
    limits = [*(("files", number) for number in (0, 1, 3, 4, 5, 9)), *(("kilobytes", size) for size in (0, 300, 1600))]
    web.shell(f"mkdir -p {DIRECTORY}; mount -t tmpfs -o mode=711 volumes {DIRECTORY}")
    steps = walk(web, "full", limits=limits)
    failed = [step for step in steps if "error" in step["result"]]
    assert {step["result"]["error"] for step in failed} == {"NoSpace"}, failed
    assert [step for step in failed if step["changed"]] == []
    assert 5 < len(failed) < len(steps), [step["step"] for step in failed]


def test_the_change_of_another_program_at_each_step(web: VolumeDomain) -> None:
    """Another disk is added to the definition before each call that reads a definition."""
    steps = walk(web, "disturbances", samples=SAMPLES)
    failed = [step["result"] for step in steps if "error" in step["result"]]
    assert all(step["kept"] and "/srv/before/foreign.img" in step["state"][0] for step in steps), steps
    assert {(one["error"], "'web'" in one["says"]) for one in failed} == {("StaleState", True)}, failed

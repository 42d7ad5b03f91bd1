# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""Volumes of a running guest, as the guest itself sees them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from lab import Lab
from volume_domain import DIRECTORY, VolumeDomain

MIB = 1 << 20
#: Wait in the guest until a block device is there, and print what its kernel knows about the device.
LOOK = """
until [ -e /sys/block/{0} ]; do sleep 0.1; done
cd /sys/block/{0}
for name in size serial ro queue/discard_max_bytes queue/logical_block_size queue/physical_block_size; do
    echo "$name=$(cat $name)"
done
echo "mq=$(ls mq | wc -l)"
"""
#: Read two texts of a filesystem again and again, through one directory, until the host stops. The texts must always be
#: those of one moment.
READER = """
import os, sys
seen = set()
while True:
    directory = os.open(sys.argv[1] + "/..data", os.O_RDONLY)
    texts = []
    for name in ("one", "two"):
        with open(os.open(name, os.O_RDONLY, dir_fd=directory)) as file:
            texts.append(file.read())
    os.close(directory)
    if len(set(texts)) > 1:
        sys.exit(f"torn: {texts}")
    seen.update(texts)
    if texts[0] == "last":
        sys.exit(0 if len(seen) > 2 else f"only {seen}")
"""


@pytest.fixture(scope="module")
def guest(site: Lab, engine: None, execute: Callable[..., str]) -> Iterator[VolumeDomain]:
    """Return the running guest ``hot``, and take its volumes away at the end."""
    found = VolumeDomain("hv1", site.guest("hot").name, execute)
    yield found
    left = found.declare(purge=True)
    found.execute("hv1", "rm", "-rf", DIRECTORY)
    assert left.get("restart_reasons") == [], left


def look(site: Lab, guest: VolumeDomain, device: str) -> dict[str, str]:
    lines = site.ssh(guest.name, LOOK.format(device)).splitlines()
    return dict(line.split("=", 1) for line in lines)


def test_a_guest_gets_disks_while_it_runs(site: Lab, guest: VolumeDomain) -> None:
    disks: list[dict[str, Any]] = [
        {
            "name": "data",
            "disk": {"bus": "virtio"},
            "serial": "GRANARY-DATA",
            "blockSize": {"custom": {"logical": 4096, "physical": 4096}},
        },
        {"name": "settings", "disk": {"bus": "virtio", "readonly": True}, "serial": "GRANARY-RO"},
    ]
    options = {
        "disks": disks,
        "volumes": [
            {"name": "data", "emptyDisk": {"capacity": "16Mi"}},
            {"name": "settings", "configMap": {"name": "app"}},
        ],
        "config_maps": {"app": {"data": {"a.conf": "x=1\n"}}},
        "blockMultiQueue": True,
    }
    options["block_multi_queue"] = options.pop("blockMultiQueue")
    done = guest.converge(**options)
    assert done["restart_reasons"] == []
    targets = {one["name"]: one["target"] for one in done["disks"]}
    seen = look(site, guest, targets["data"])
    assert int(seen.pop("queue/discard_max_bytes")) > 0
    assert seen == {
        "size": str(16 * MIB // 512),
        "serial": "GRANARY-DATA",
        "ro": "0",
        "queue/logical_block_size": "4096",
        "queue/physical_block_size": "4096",
        "mq": site.ssh(guest.name, "nproc").strip(),
    }
    seen = look(site, guest, targets["settings"])
    assert (seen["serial"], seen["ro"]) == ("GRANARY-RO", "1")
    assert "cfgdata" in site.ssh(guest.name, f"dd if=/dev/{targets['settings']} bs=2048 skip=16 count=1 2>/dev/null")
    # The disk grows, and the guest sees it.
    script = f"echo kept >/dev/{targets['data']}; sync"
    site.ssh(guest.name, script)
    options["volumes"][0]["emptyDisk"]["capacity"] = "32Mi"
    assert guest.converge(**options)["actions"] == ["grow disk"]
    grown = f"until [ $(cat /sys/block/{targets['data']}/size) = {32 * MIB // 512} ]; do sleep 0.1; done"
    assert site.ssh(guest.name, f"{grown}; head -c 4 /dev/{targets['data']}") == "kept"
    # Without the thread in the running domain, a disk with a dedicated one waits for the next start.
    threads = {"name": "fast", "disk": {"bus": "virtio"}, "dedicatedIOThread": True}
    more = {**options, "disks": [*disks, threads]}
    more["volumes"] = [*options["volumes"], {"name": "fast", "emptyDisk": {"capacity": "4Mi"}}]
    assert guest.declare(check=True, **more)["restart_required"] is True


def test_texts_change_while_a_guest_reads_them(site: Lab, guest: VolumeDomain) -> None:
    def texts(text: str) -> dict[str, Any]:
        return {
            "filesystems": [{"name": "live", "virtiofs": {}}],
            "volumes": [{"name": "live", "secret": {"secretName": "pair"}}],
            "secrets": {"pair": {"data": {"one": text, "two": text}}},
        }

    done = guest.converge(**texts("first"))
    assert done["restart_reasons"] == [] and done["warnings"] == []
    # Other users of the host can't reach the texts.
    found = guest.shell(f"find {DIRECTORY} -name one -type f").strip()
    assert guest.shell('runuser -u nobody -- cat "$0" 2>&1 || true', found).strip().endswith("Permission denied")
    site.ssh(guest.name, "mkdir -p /mnt/live; modprobe virtiofs; mount -t virtiofs live /mnt/live")
    try:
        assert site.ssh(guest.name, "cat /mnt/live/one; ls /mnt/live") == "firstone\ntwo\n"
        assert "Read-only" in site.ssh(guest.name, "touch /mnt/live/new 2>&1 || true")
        reading = f"setsid python3 -c '{READER}' /mnt/live >/tmp/reader 2>&1 </dev/null; echo $? >>/tmp/reader"
        site.ssh(guest.name, f"({reading}) >/dev/null 2>&1 &")
        for number in range(10):
            assert guest.declare(**texts(f"text {number}"))["actions"] == ["write files"]
        guest.declare(**texts("last"))
        site.ssh(guest.name, "until tail -n 1 /tmp/reader | grep -qx '[0-9]*'; do sleep 0.1; done")
        assert site.ssh(guest.name, "cat /tmp/reader") == "0\n"
        changed = texts("last")
        changed["secrets"]["pair"]["data"] = {"three": "3"}
        guest.declare(**changed)
        assert site.ssh(guest.name, "ls /mnt/live; cat /mnt/live/three") == "three\n3"
    finally:
        site.ssh(guest.name, "umount /mnt/live")
    assert "last" not in json.dumps(done)
    assert "unplug virtiofs device" in guest.converge()["actions"]
    assert guest.shell(f"find {DIRECTORY} -name '..*' | wc -l").strip() == "0"

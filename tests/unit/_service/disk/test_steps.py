# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""Moves, failures, killed runs and simultaneous runs."""

from __future__ import annotations

import contextlib
import fcntl
import multiprocessing
import os
import signal
import sqlite3
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import (
    Conflict,
    NoSpace,
    NotFound,
    UnsupportedAction,
    VmstoreError,
)
from ansible_collections.granary.vmstore.plugins.module_utils._service.disk.info import vm_disk_info
from refusal import refused
from vm_site import Site, content, describe, used

HOST = os.uname().nodename


# Moves


def test_a_vm_moves_to_another_datastore(site: Site) -> None:
    site.run(vm="web", disks=[{"image": "qcow2"}, {"image": "mine"}, {"size": 1}])
    done = site.four(vm="web", datastore="other-system")
    [action] = done.actions
    assert (action.name, action.subject) == ("move VM", "web")
    assert (action.before, action.after) == (
        {"host": HOST, "datastore": "system", "domain": "web"},
        {"host": HOST, "datastore": "other-system", "domain": "web"},
    )
    assert not site.disk().parent.exists()
    assert content(site.disk(datastore=102), "qcow2") == b"qcow2"
    assert content(site.disk(1, datastore=102), "raw") == b"mine"
    site.four(vm="web", state="absent")
    assert not site.disk(datastore=102).parent.exists()


def test_a_move_and_a_new_disk_in_one_run(site: Site) -> None:
    site.run(vm="web", image="raw")
    done = site.four(vm="web", datastore="102", disks=[{"image": "raw", "size": 4}, {"size": 3}])
    assert [action.name for action in done.actions] == ["move VM", "grow disk", "create disk"]
    assert [describe(site.disk(number, datastore=102))["virtual-size"] >> 20 for number in (0, 1)] == [4, 3]


def test_a_move_and_a_removal_in_one_run(site: Site) -> None:
    site.run(vm="web", disks=[{"image": "raw"}, {"image": "mine"}, {"size": 1}])
    site.disk(1).write_bytes(b"written".ljust(2 << 20, b"\0"))
    site.four(vm="web", datastore="102", disks=[{"image": "raw"}, {"disk": 1, "state": "absent"}], exclusive=True)
    assert [site.disk(number, datastore=102).exists() for number in (0, 1, 2)] == [True, False, False]
    assert content(site.image("mine"), "raw") == b"written"


def test_a_vm_whose_disk_is_used_does_not_move_or_go(site: Site) -> None:
    site.run(vm="web", image="raw")
    before = site.dump()
    with used(site.disk()):
        with refused(
            Conflict,
            says=f"The VM 'web' can't move while it runs on the host '{HOST}': shut it down there first.",
        ):
            site.run(vm="web", datastore="102")
        with refused(
            Conflict, says=f"The VM 'web' can't be removed while it runs on the host '{HOST}': shut it down first."
        ):
            site.run(vm="web", state="absent")
        with refused(
            Conflict,
            says="The disk 0 of VM 'web' can't be removed while a program such as a running virtual machine uses it: "
            "shut that down first.",
        ):
            site.run(vm="web", disk=0, state="absent")
        with refused(
            Conflict,
            says="size: the disk 0 of VM 'web' can't grow while a program other than its domain uses the disks of the "
            "VM: shut that down first.",
        ):
            site.run(vm="web", size=9)
        assert site.run(vm="web", image="raw").actions == []
    assert (site.dump(), site.disk().exists()) == (before, True)


def test_a_vm_does_not_move_to_another_transfer_driver(site: Site) -> None:
    site.run(vm="web", image="raw")
    with refused(
        UnsupportedAction,
        says="datastore: the VM 'web' can't move from 'system' with the transfer driver local to 'shared-system' with "
        "shared; both need the same driver.",
    ):
        site.run(vm="web", datastore="shared-system")


def test_a_vm_without_its_directory_does_not_move(site: Site) -> None:
    site.run(vm="web", image="raw")
    site.disk().unlink()
    for left in site.disk().parent.iterdir():
        left.unlink()
    site.disk().parent.rmdir()
    with refused(NotFound, names=["'web'", site.disk().parent]):
        site.run(vm="web", datastore="102")


def test_a_move_whose_record_was_lost_is_completed(site: Site) -> None:
    site.run(vm="web", image="raw")
    moved = site.disk(datastore=102).parent
    moved.parent.mkdir(exist_ok=True)
    site.disk().parent.rename(moved)
    assert [action.name for action in site.four(vm="web", datastore="102").actions] == ["move VM"]
    assert content(site.disk(datastore=102), "raw") == b"raw"


# Sizes


def test_a_growth_whose_record_was_lost_is_recorded(site: Site) -> None:
    site.run(vm="web", disks=[{"image": "raw"}, {"image": "shared-mine"}])
    for number, image_format in ((0, "raw"), (1, "qcow2")):
        subprocess.run(["qemu-img", "resize", "-q", "-f", image_format, str(site.disk(number)), "5M"], check=True)
    assert site.run(vm="web", disks=[{"image": "raw"}]).actions == []
    done = site.four(vm="web", disks=[{"size": 5}, {"size": 5}])
    assert [action.name for action in done.actions] == ["grow disk", "grow disk"]
    assert site.query("SELECT size_mb FROM disk") == [(5,), (5,)]
    assert site.query("SELECT size_mb FROM image WHERE name = 'shared-mine'") == [(5,)]


# Failures


def test_a_failed_copy_takes_everything_back(site: Site) -> None:
    site.image("qcow2").write_bytes(b"no qcow2 at all")
    before = site.dump()
    with pytest.raises(VmstoreError):
        site.run(vms=[{"vm": "a", "image": "raw"}, {"vm": "b", "image": "qcow2"}])
    # Only the counter of ids has changed, because an id is never used twice.
    assert [line for line in site.dump() if line not in before] == ["INSERT INTO \"counter\" VALUES('vm',2);"]
    assert not site.disk(vm=0).exists()
    assert not site.disk(vm=1).exists()


def test_a_host_without_room_is_told_before_a_byte_is_copied(site: Site, tmp_path: Path) -> None:
    big = site.image("raw")
    big.write_bytes(bytes(range(256)) * (40 << 12))
    mount = tmp_path / "0"
    mount.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=60m", "tmpfs", mount], check=True)
    try:
        before = site.dump()
        for check in (True, False):
            with refused(NoSpace, names=["disk 1 of VM 'a'", "40 MiB", mount]):
                site.run(check=check, vm="a", disks=[{"image": "raw"}, {"image": "raw"}])
        assert (site.dump(), os.listdir(mount)) == (before, [])
    finally:
        subprocess.run(["umount", mount], check=True)


# Killed runs


def kill_during_copy(site: Site, **options: Any) -> None:
    """Run in another process, and kill the process once the rows are reserved, while it waits for the disk's lock."""
    process = multiprocessing.get_context("fork").Process(target=site.run, kwargs=options)
    process.start()
    assert process.pid is not None
    while not site.query("SELECT 1 FROM disk WHERE state = 'new'"):
        assert process.is_alive()
    os.kill(process.pid, signal.SIGKILL)
    process.join()


def test_a_killed_run_is_completed_by_the_next(site: Site) -> None:
    site.disk().parent.mkdir(parents=True)
    with open(site.disk().parent / ".disks.lock", "w") as lock:
        fcntl.lockf(lock, fcntl.LOCK_EX)
        kill_during_copy(site, vm="web", image="raw")
    assert site.query("SELECT id, state FROM vm") == [(0, "new")]
    site.disk().write_bytes(b"left by the killed run")
    done = site.four(vm="web", image="raw")
    assert [action.name for action in done.actions] == ["create VM", "create disk"]
    assert content(site.disk(), "raw") == b"raw"
    assert site.query("SELECT id, state FROM vm") == [(0, "ready")]


def test_what_a_killed_run_left_can_be_removed(site: Site) -> None:
    site.disk().parent.mkdir(parents=True)
    with open(site.disk().parent / ".disks.lock", "w") as lock:
        fcntl.lockf(lock, fcntl.LOCK_EX)
        kill_during_copy(site, vm="web", image="mine")
    site.four(vm="web", state="absent")
    assert site.query("SELECT count(*) FROM vm") == [(0,)]
    assert content(site.image("mine"), "raw") == b"mine"


@pytest.mark.parametrize("is_back", [False, True])
def test_a_killed_removal_is_completed_by_the_next_run(site: Site, is_back: bool) -> None:
    site.run(vm="web", disks=[{"image": "mine"}, {"size": 1}])
    site.disk().write_bytes(b"written".ljust(2 << 20, b"\0"))
    with contextlib.closing(sqlite3.connect(site.catalog)) as connection:
        connection.execute("UPDATE disk SET state = 'leaving'")
        connection.commit()
    if is_back:
        site.image("mine").write_bytes(site.disk().read_bytes())
        site.disk().unlink()
    with refused(Conflict, names=["disk 0 of VM 'web'", "is being removed"]):
        site.run(vm="web", image="mine")
    site.four(vm="web", state="absent")
    assert content(site.image("mine"), "raw") == b"written"
    assert not site.disk().parent.exists()


# Simultaneous runs


def test_simultaneous_runs_get_vms_of_their_own(site: Site) -> None:
    failures: list[BaseException] = []

    def run(number: int) -> None:
        try:
            site.run(vm=f"vm{number}", image="raw")
        except VmstoreError as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=[number]) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert sorted(site.query("SELECT id FROM vm")) == [(number,) for number in range(8)]
    assert all(content(site.disk(vm=number), "raw") == b"raw" for number in range(8))


def test_simultaneous_runs_with_the_same_vm_make_it_once(site: Site) -> None:
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=site.run, kwargs={"vm": "web", "image": "raw"}) for _number in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    assert site.query("SELECT id FROM vm") == [(0,)]


# The info module


def test_the_info_has_the_record_and_the_world(site: Site) -> None:
    site.run(vm="web", disks=[{"image": "shared-qcow2"}, {"size": 3, "fs": "swap"}], datastore="shared-system")
    site.run(vm="other", size=1)
    options: dict[str, Any] = {"catalog": site.catalog, "vm": None, "host": None, "image": None, "world": False}
    found: Any = vm_disk_info(options)
    assert [vm["name"] for vm in found["vms"]] == ["web", "other"]
    assert [disk["world"] for disk in found["vms"][0]["disks"]] == [None, None]
    found = vm_disk_info({**options, "image": "shared-qcow2", "world": True})
    [vm] = found["vms"]
    first, second = vm["disks"]
    assert (vm["name"], vm["state"], vm["world_error"]) == ("web", "ready", None)
    assert (first["clone"], second["fs"], second["size_mb"]) == ("linked", "swap", 3)
    assert first["world"]["chain"][1:] == [str(site.image("shared-qcow2"))]
    assert (first["world"]["is_used"], second["world"]["size_mb"]) == (False, 3)
    site.disk(1, datastore=100).unlink()
    found = vm_disk_info({**options, "vm": "0", "world": True})
    assert found["vms"][0]["disks"][1]["world"] == {"exists": False, "error": None}


def test_the_info_of_a_host_that_does_not_answer(site: Site) -> None:
    site.run(vm="web", size=1)
    with contextlib.closing(sqlite3.connect(site.catalog)) as connection:
        connection.execute("UPDATE vm SET host = 'no-such-host.invalid'")
        connection.commit()
    options = {"catalog": site.catalog, "vm": None, "host": None, "image": None, "world": True}
    found: Any = vm_disk_info(options)
    assert "no-such-host.invalid" in found["vms"][0]["world_error"]


#: A program in place of ssh(1) that fails once it runs for two hosts. The last but one argument is the host.
MEETING = """#!/bin/sh
while [ $# -gt 2 ]; do shift; done
touch "{0}/$1"
while ! [ -e "{0}/one.invalid" -a -e "{0}/two.invalid" ]; do sleep 0.01; done
echo "both are here" >&2
exit 255
"""


def test_hosts_are_looked_at_at_the_same_time(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hosts that are down cost the time of one."""
    (programs := tmp_path / "programs").mkdir()
    (programs / "ssh").write_text(MEETING.format(programs))
    (programs / "ssh").chmod(0o755)
    for name in ("one", "two"):
        site.run(vm=name, size=1)
    with contextlib.closing(sqlite3.connect(site.catalog)) as connection:
        connection.execute("UPDATE vm SET host = name || '.invalid'")
        connection.commit()
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    options = {"catalog": site.catalog, "vm": None, "host": None, "image": None, "world": True}
    found: Any = vm_disk_info(options)
    assert ["both are here" in vm["world_error"] for vm in found["vms"]] == [True, True]

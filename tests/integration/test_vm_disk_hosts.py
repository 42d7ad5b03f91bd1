# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""Disks of VMs on other hosts, over a real sshd. The hosts ``h1`` and ``h2`` have the same files."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._catalog.catalog import open_catalog
from ansible_collections.granary.vmstore.plugins.module_utils._catalog.vms import DISKS, VMS
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import (
    Conflict,
    DependencyNotFound,
    HostUnreachable,
    VmstoreError,
)
from ansible_collections.granary.vmstore.plugins.module_utils._model.declared_vm import DeclaredDisk, DeclaredVm
from ansible_collections.granary.vmstore.plugins.module_utils._service.datastore.info import datastore_info
from ansible_collections.granary.vmstore.plugins.module_utils._service.disk.info import vm_disk_info
from refusal import refused
from vm_site import Site, content, describe, make_site

HERE = os.uname().nodename


@pytest.fixture
def site(bridges: Any, tmp_path: Path) -> Site:
    return make_site(tmp_path, bridges.datastores)


def on_host(bridges: Any, disk: int = 0, vm: int = 0, datastore: int = 0) -> Path:
    """Return the path of a disk of a host, as the test reaches it."""
    found: Path = bridges.data.parent / str(datastore) / str(vm) / f"disk.{disk}"
    return found


def test_disks_of_another_host(site: Site, bridges: Any) -> None:
    done = site.four(vm="web", host="h1", disks=[{"image": "qcow2"}, {"image": "mine"}, {"size": 3, "fs": "swap"}])
    assert [disk["path"] for disk in done.result["disks"]] == [str(site.disk(number)) for number in range(3)]
    assert content(on_host(bridges), "qcow2") == b"qcow2"
    assert content(on_host(bridges, 1), "raw") == b"mine"
    assert not site.disk().parent.exists()
    site.four(vm="web", disks=[{"size": 9}])
    assert describe(on_host(bridges))["virtual-size"] == 9 << 20
    on_host(bridges, 1).write_bytes(b"written".ljust(2 << 20, b"\0"))
    site.four(vm="web", disk=1, state="absent")
    assert content(site.image("mine"), "raw") == b"written"
    site.four(vm="web", state="absent")
    assert not on_host(bridges).parent.exists()


def test_the_module_brings_the_program_of_the_host(site: Site, bridges: Any) -> None:
    command = [str(Path(sys.executable).with_name("ansible")), "localhost", "-i", "localhost,", "-c", "local"]
    command += ["-e", f"ansible_python_interpreter={sys.executable}", "-m", "granary.vmstore.vm_disk"]
    options = {"catalog": site.catalog, "vm": "web", "host": "h1", "image": "raw"}
    done = subprocess.run([*command, "-a", json.dumps(options)], capture_output=True, text=True, check=False)
    assert '"changed": true' in done.stdout, done.stdout + done.stderr
    assert content(on_host(bridges), "raw") == b"raw"


def test_all_vms_of_a_host_are_looked_at_over_one_connection(site: Site, bridges: Any) -> None:
    vms = [{"vm": f"vm{number}", "host": ("h1", "h2")[number % 2], "size": 1} for number in range(6)]
    site.run(vms=vms)
    before = bridges.connections()
    assert site.run(vms=vms).actions == []
    assert bridges.connections() == before + 2
    found: Any = vm_disk_info({"catalog": site.catalog, "vm": None, "host": "h1", "image": None, "world": True})
    assert bridges.connections() == before + 3
    assert [vm["disks"][0]["world"]["size_mb"] for vm in found["vms"]] == [1, 1, 1]


def test_the_disks_of_1000_vms_on_two_hosts_and_one_that_is_down(site: Site, bridges: Any) -> None:
    """The other hosts are returned, each over one connection, with the figures of du(1), df(1) and qemu-img(1)."""
    store = bridges.data.parent / "0"
    hosts = {**{vm: ("h1", "h2")[vm % 2] for vm in range(1000)}, 1000: "no-such-host.invalid"}
    with open_catalog(site.catalog, create=False) as catalog, catalog.transaction():
        for vm, host in hosts.items():
            VMS.insert(catalog, DeclaredVm(catalog.take_id("vm"), f"vm{vm}", f"vm{vm}", host, 0))
            DISKS.insert(catalog, DeclaredDisk(vm, 0, "fs", "raw", 3))
            (directory := store / str(vm)).mkdir(parents=True)
            with (directory / "disk.0").open("wb") as file:
                file.write(b"x" * (vm << 7))
                file.truncate(3 << 20)
    layers = store / "7" / "disk.1.snap"
    layers.mkdir()
    for number in range(3):
        backing = ["-u", "-b", f"disk.1.snap/{number - 1}", "-F", "qcow2"] if number else []
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *backing, layers / str(number), "64M"], check=True)
    command = f"write -P 1 0 {3 << 20}"
    subprocess.run(["qemu-io", "-f", "qcow2", "-c", command, layers / "0"], check=True, stdout=subprocess.DEVNULL)
    (layers / layers.name).symlink_to(".")
    (store / "7" / "disk.1").symlink_to("disk.1.snap/2")
    with open_catalog(site.catalog, create=False) as catalog, catalog.transaction():
        DISKS.insert(catalog, DeclaredDisk(7, 1, "fs", "qcow2", 64))
    before = bridges.connections()
    result: Any = datastore_info({"catalog": site.catalog, "name": "0", "timeout": 30, "vms": True})
    assert bridges.connections() == before + 2
    (found,) = result["datastores"]
    down, *up = sorted(found["hosts"], key=lambda host: host["monitor_error"] is None)
    assert (down["name"], down["used_mb"]) == ("no-such-host.invalid", None)
    assert "no-such-host.invalid" in down["monitor_error"]
    total = int(subprocess.check_output(["df", "-B1", "--output=size", store]).split()[-1])
    assert [(host["name"], host["total_mb"], host["monitor_error"]) for host in up] == [
        (name, total >> 20, None) for name in ("h1", "h2")
    ]
    vms = {vm["id"]: vm for vm in found["vms"]}
    assert set(vms) == set(hosts)
    sizes = subprocess.check_output(["du", "--block-size=1M", "-a", store], text=True)
    files = {path: int(size) for size, path in (line.split("\t") for line in sizes.splitlines())}
    for vm in range(1000):
        disk = vms[vm]["disks"][0]
        assert (disk["size_mb"], disk["allocated_mb"]) == (3, files[f"{store}/{vm}/disk.0"])
    assert vms[1000]["disks"] == [{"disk": 0}]
    layered = vms[7]["disks"][1]
    described = json.loads(
        subprocess.check_output(["qemu-img", "info", "--output=json", "--backing-chain", store / "7" / "disk.1"])
    )
    assert layered["size_mb"] == described[0]["virtual-size"] >> 20 == 64
    assert layered["allocated_mb"] == -(-described[0]["actual-size"] >> 20)
    assert layered["snapshots"] == [{"id": number, "allocated_mb": files[f"{layers}/{number}"]} for number in (0, 1)]
    assert [Path(path).name for path in layered["chain"]] == ["2", "1", "0"]
    recorded: Any = vm_disk_info({"catalog": site.catalog, "vm": "7", "host": None, "image": None, "world": True})
    assert [{"disk": disk["disk"], **disk["world"]} for disk in recorded["vms"][0]["disks"]] == vms[7]["disks"]


def test_a_new_disk_takes_two_connections(site: Site, bridges: Any) -> None:
    site.run(vm="web", host="h1", image="raw")
    # One for the look, and one for the copy.
    assert bridges.connections() == 2


def test_a_vm_moves_to_a_host_and_back(site: Site, bridges: Any) -> None:
    site.run(vm="web", disks=[{"image": "qcow2"}, {"image": "mine"}])
    assert [action.name for action in site.four(vm="web", host="h1").actions] == ["move VM"]
    assert not site.disk().parent.exists()
    assert content(on_host(bridges, 1), "raw") == b"mine"
    site.four(vm="web", host=HERE, datastore="102")
    assert not on_host(bridges).parent.exists()
    assert content(site.disk(datastore=102), "qcow2") == b"qcow2"


def test_a_host_without_the_directory_of_the_datastores(site: Site, bridges: Any, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere" / "0"
    with contextlib.closing(sqlite3.connect(site.catalog)) as connection:
        connection.execute("UPDATE datastore SET base_path = ? WHERE id = 0", [str(elsewhere)])
        connection.commit()
    before = site.dump()
    with refused(
        DependencyNotFound,
        says=f"datastore: the host h1 has no directory {elsewhere.parent}: create it for the service user, or mount "
        "the datastores there.",
    ):
        site.run(vm="web", host="h1", size=1)
    assert site.dump() == before
    assert len(site.run(check=True, vm="web", host="h1", size=1).warnings) == 1


def test_a_failed_copy_to_a_host_leaves_nothing(site: Site, bridges: Any) -> None:
    site.image("qcow2").write_bytes(b"no qcow2 at all")
    with pytest.raises(VmstoreError):
        site.run(vm="web", host="h1", disks=[{"image": "raw"}, {"image": "qcow2"}])
    assert not on_host(bridges).exists()
    assert site.query("SELECT count(*) FROM vm") == site.query("SELECT count(*) FROM disk") == [(0,)]


def test_a_foreign_file_on_a_host(site: Site, bridges: Any) -> None:
    site.run(vm="web", host="h1", size=1)
    on_host(bridges, 1).write_text("foreign")
    with refused(Conflict, names=[f"h1:{site.disk(1)}"]):
        site.run(vm="web", disk=1, size=1)
    on_host(bridges).unlink()
    assert [action.name for action in site.four(vm="web", size=1).actions] == ["create lost disk"]


@pytest.mark.parametrize("check", [True, False])
def test_a_dead_host_is_a_refusal(site: Site, check: bool) -> None:
    before = site.dump()
    with refused(HostUnreachable, says="The host dead1 can't be used: *."):
        site.run(check=check, vm="web", host="dead1", image="raw")
    assert site.dump() == before

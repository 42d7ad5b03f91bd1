# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""A cloud image with real cloud-init takes the data of virtiofs_export's seed and of domain_volumes' media.

Nobody logs in. The report comes over the serial console.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from lab import Lab
from volume_domain import DIRECTORY, VolumeDomain

#: User data whose program prints the network configuration, and the disks with their addresses.
USER_DATA = """#cloud-config
hostname: {0}
runcmd:
  - exec >/dev/console 2>&1
  - echo user data of $(hostname)
  - grep -h address -A 1 /etc/netplan/*
  - for disk in /sys/block/vd*; do echo $(cat $disk/serial) is at $(basename $(readlink -f $disk/../../..)); done
"""
SEED = "/var/lib/libvirt/images/cloud-seed.iso"
Execute = Callable[..., str]
Module = Callable[..., dict[str, Any]]


@pytest.fixture
def export(site: Lab, module: Module, execute: Execute) -> Iterator[Callable[..., dict]]:
    host = site.guest("cloud").host.name
    definition = execute(host, "virsh", "dumpxml", "--inactive", "--security-info", "cloud")

    def run(tag: str, **options: object) -> dict:
        result = module(host, "virtiofs_export", domain="cloud", mount_tag=tag, seed=SEED, **options)
        assert "msg" not in result, result["msg"]
        return result

    yield run
    site.guest("cloud").stop()
    for tag in ("data", "more"):
        run(tag, state="absent")
    # The drive with the seed stays.
    execute(host, "virsh", "define", "/dev/stdin", stdin=definition)
    execute(host, "rm", "-f", SEED)


@pytest.fixture
def volumes(site: Lab, engine: None, execute: Execute) -> Iterator[VolumeDomain]:
    guest = site.guest("cloud")
    found = VolumeDomain(guest.host.name, guest.name, execute)
    yield found
    guest.stop()
    found.declare(purge=True)
    found.shell(f"rm -rf {DIRECTORY}")


def boot(site: Lab, execute: Execute) -> list[str]:
    """Start the guest, and return what it printed up to its report after the end of cloud-init."""
    guest = site.guest("cloud")
    guest.stop()
    offset = guest.console_size()
    guest.start()
    guest.wait_ready(offset)
    text = execute(guest.host.name, "tail", "-c", f"+{offset + 1}", guest.console)
    return re.split(r"\r*\n", text)


def test_a_cloud_image_mounts_by_its_seed(
    site: Lab, export: Callable[..., dict], directory: Callable[..., str], execute: Execute
) -> None:
    host = site.guest("cloud").host.name
    data, more = (directory(host, f"/srv/cloud-{name}") for name in ("data", "more"))
    assert export("data", source=data, mount_point="/srv/data")["changed"]
    assert export("more", source=more, mount_point="/mnt/more", read_only=True)["changed"]
    assert not export("data", source=data, mount_point="/srv/data")["changed"]

    report = boot(site, execute)
    assert {"status: done", "errors: []", "recoverable_errors: {}"} <= set(report)
    assert {"/srv/data data virtiofs rw,relatime", "/mnt/more more virtiofs ro,relatime"} <= set(report)
    assert "data\t/srv/data\tvirtiofs\tnofail,comment=cloudconfig\t0\t0" in report

    # cloud-init applies mounts once per instance. The seed overrides this, because the instance is the same.
    export("more", state="absent")
    assert export("data", source=data, mount_point="/srv/moved")["changed"]
    report = boot(site, execute)
    assert {"status: done", "recoverable_errors: {}", "/srv/moved data virtiofs rw,relatime"} <= set(report)
    assert [line for line in report if "comment=cloudconfig" in line] == [
        "data\t/srv/moved\tvirtiofs\tnofail,comment=cloudconfig\t0\t0"
    ]


def test_a_cloud_image_takes_the_media_of_volumes(site: Lab, volumes: VolumeDomain, execute: Execute) -> None:
    mac = site.guest("cloud").mac
    network = f"""version: 2
ethernets:
  nic:
    match: {{macaddress: "{mac}"}}
    addresses: [192.168.150.201/24]
"""
    medium = {"name": "seed", "cdrom": {"bus": "sata"}}
    # Another UUID is another instance, for which cloud-init does all of its work again.
    no_cloud = {"userData": USER_DATA.format("by-nocloud"), "networkData": network}
    volumes.converge(
        disks=[medium],
        volumes=[{"name": "seed", "cloudInitNoCloud": no_cloud}],
        metadata={"uid": "2d0c8b3e-93a5-4f38-8d5c-5b7f2a9c6e10"},
    )
    report = boot(site, execute)
    assert {"status: done", "errors: []", "recoverable_errors: {}", "user data of by-nocloud"} <= set(report)
    assert any("DataSourceNoCloud [seed=/dev/sr0]" in line for line in report)
    assert any("192.168.150.201/24" in line for line in report)

    links = [{"id": "nic", "type": "phy", "ethernet_mac_address": mac}]
    address = {"id": "n0", "type": "ipv4", "link": "nic", "ip_address": "192.168.150.202", "netmask": "255.255.255.0"}
    drive = {
        "userData": USER_DATA.format("by-configdrive"),
        "networkData": json.dumps({"links": links, "networks": [address]}),
    }
    site.guest("cloud").stop()
    volumes.converge(
        disks=[medium, {"name": "data", "disk": {"bus": "virtio"}, "serial": "DATA", "tag": "data"}],
        volumes=[{"name": "seed", "cloudInitConfigDrive": drive}, {"name": "data", "emptyDisk": {"capacity": "1Mi"}}],
        metadata={"uid": "6a3f1d5e-5f0e-4f0b-9c44-2d9f0b1f3a77"},
    )
    metadata = json.loads(volumes.files_of(volumes.path("seed"))["openstack/latest/meta_data.json"])
    report = boot(site, execute)
    assert {"status: done", "errors: []", "recoverable_errors: {}", "user data of by-configdrive"} <= set(report)
    assert any("DataSourceConfigDrive" in line and "source=/dev/sr0" in line for line in report)
    assert any("192.168.150.202/24" in line for line in report)
    # The guest finds the disk with a tag where the metadata has it.
    [device] = metadata["devices"]
    assert device["tags"] == ["data"] and f"DATA is at {device['address']}" in report

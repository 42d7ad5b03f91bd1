# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""The disks and volumes of domains, on real libvirts."""

from __future__ import annotations

import json
import re
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ansible_process
import pytest
import yaml
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import InvalidDeclaration
from container_images import image_archive, qcow2_disk
from documentation import block
from lab import Lab
from refusal import require_failure
from volume_domain import DIRECTORY, VolumeDomain

MIB = 1 << 20
ANSIBLE = Path(sys.executable).with_name("ansible")
#: Images as image_info returns them. The first is persistent, the second isn't.
CLAIMS = [
    {"id": 7, "name": "data", "path": "/srv/volumes/data", "format": "raw", "persistent": True, "read_only": False},
    {"id": 8, "name": "base", "path": "/srv/volumes/base", "format": "qcow2", "persistent": False, "read_only": False},
]


#: The tests that run on the older libvirt, too.
on_both = pytest.mark.parametrize("host", ["hv1", "old"])


@pytest.fixture
def host() -> str:
    return "hv1"


@pytest.fixture
def web(engine: None, domain: Callable[..., str], execute: Callable[..., str], host: str) -> Iterator[VolumeDomain]:
    """Define a domain without volumes, on a host with two images."""
    found = VolumeDomain(host, domain(host, "web"), execute)
    script = (
        "rm -rf /srv/volumes; mkdir -p /srv/volumes; chmod 755 /srv /srv/volumes; truncate -s 20M /srv/volumes/data; "
        "qemu-img create -q -f qcow2 /srv/volumes/base 10M"
    )
    found.shell(script)
    yield found
    found.virsh("destroy", "--graceful") if found.virsh("domstate").strip() == "running" else None
    found.shell(f"rm -rf /srv/volumes {DIRECTORY} /var/lib/libvirt/granary-test")


def bus(name: str, **device: Any) -> dict[str, Any]:
    """Return a disk on virtio, or another device."""
    return {"name": name, **(device or {"disk": {"bus": "virtio"}})}


def pci_address(disk: ET.Element) -> str:
    place = disk.find("address[@type='pci']")
    assert place is not None
    domain, bus, slot, function = (int(place.get(name, ""), 16) for name in ("domain", "bus", "slot", "function"))
    return f"{domain:04x}:{bus:02x}:{slot:02x}.{function:x}"


def let_qemu_write(domain: VolumeDomain, disk: str, byte: int) -> None:
    """Let QEMU write to the beginning of a disk on virtio, like the guest does."""
    line = f'qemu-io -d /machine/peripheral/ua-{disk}/virtio-backend "write -P {byte} 0 512"'
    assert domain.virsh("qemu-monitor-command", "--hmp", line).strip() == ""


@on_both
def test_every_source_of_a_disk(site: Lab, web: VolumeDomain, tmp_path: Path) -> None:
    image = image_archive(tmp_path, ("disk/disk.qcow2", qcow2_disk(tmp_path)))
    site.ssh(web.host, "cat >/srv/volumes/image.tar", stdin=image)
    before = web.definition()
    options: dict[str, Any] = {
        "disks": [
            bus("claim", disk={"bus": "virtio"}, serial="CLAIM-1", bootOrder=1, tag="data"),
            bus("overlay"),
            bus("container"),
            bus("empty", disk={"bus": "scsi"}, tag="scratch"),
            bus("thick"),
            bus("host", disk={"bus": "sata"}),
            bus("nocloud", cdrom={"bus": "sata"}),
            bus("drive", cdrom={"bus": "scsi", "tray": "open"}),
            bus("map", disk={"bus": "virtio", "readonly": True}),
            bus("answers", cdrom={}),
            bus("nothing", cdrom={"bus": "sata"}),
        ],
        "volumes": [
            {"name": "claim", "persistentVolumeClaim": {"claimName": "data"}},
            {"name": "overlay", "ephemeral": {"persistentVolumeClaim": {"claimName": "8"}}},
            {"name": "container", "containerDisk": {"image": "oci-archive:/srv/volumes/image.tar", "capacity": "10Mi"}},
            {"name": "empty", "emptyDisk": {"capacity": "5Mi"}},
            {"name": "thick", "emptyDisk": {"capacity": "3Mi"}, "thick": True},
            {
                "name": "host",
                "hostDisk": {"path": "/srv/volumes/host.img", "type": "DiskOrCreate", "capacity": "8Mi"},
            },
            {"name": "nocloud", "cloudInitNoCloud": {"userData": "#cloud-config\n", "networkData": "version: 2\n"}},
            {"name": "drive", "cloudInitConfigDrive": {"secretRef": {"name": "boot"}}},
            {"name": "map", "configMap": {"name": "app", "volumeLabel": "OEMDRV"}},
            {"name": "answers", "sysprep": {"configMap": {"name": "windows"}}},
        ],
        "config_maps": {
            "app": {"data": {"a.conf": "x=1\n", "b.conf": "y=2\n"}},
            "windows": {"data": {"Unattend.xml": "<a/>"}},
        },
        "secrets": {"boot": {"data": {"userdata": '{"ignition": {}}'}}},
        "claims": CLAIMS,
    }
    pulled = web.declare(check=True, **options)  # what is in the image isn't known yet
    assert pulled["actions"][0] == "pull container disk" and web.definition() == before
    web.declare(**{**options, "disks": [], "volumes": options["volumes"][2:3]})
    done = web.converge(**options)
    assert "change definition" in done["actions"] and done["restart_required"] is False
    after = web.definition()
    lost = set(before.splitlines()) - set(after.splitlines())
    assert lost == {"    <boot dev='hd'/>"}  # the boot order of a disk replaces it
    assert "<my:owner>alice</my:owner>" in after and "passwd='secret'" in after
    # The data, as other programs find it.
    assert (web.path("claim"), web.path("host")) == ("/srv/volumes/data", "/srv/volumes/host.img")
    overlay, container = web.info(web.path("overlay")), web.info(web.path("container"))
    assert (overlay["virtual-size"], overlay["backing-filename"]) == (10 * MIB, "/srv/volumes/base")
    assert overlay["backing-filename-format"] == "qcow2"
    assert container["virtual-size"] == 10 * MIB and container["backing-filename-format"] == "qcow2"
    assert web.info(container["backing-filename"])["virtual-size"] == 8 * MIB
    sizes = {name: web.info(web.path(name)) for name in ("empty", "thick", "host")}
    assert {name: one["virtual-size"] // MIB for name, one in sizes.items()} == {"empty": 5, "thick": 3, "host": 8}
    assert sizes["thick"]["actual-size"] >= 3 * MIB > sizes["empty"]["actual-size"]
    assert sizes["host"]["format"] == "raw" and sizes["host"]["actual-size"] == 0
    labels = {name: web.shell('blkid -o value -s LABEL "$0"', web.path(name)) for name in ("nocloud", "drive", "map")}
    assert {name: label.strip() for name, label in labels.items()} == {
        "nocloud": "cidata",
        "drive": "config-2",
        "map": "OEMDRV",
    }
    seed = web.files_of(web.path("nocloud"))
    assert (seed["user-data"], seed["network-config"]) == ("#cloud-config\n", "version: 2\n")
    assert json.loads(seed["meta-data"]) == {
        "instance-id": web.virsh("domuuid").strip(),
        "local-hostname": "web",
    }
    drive = web.files_of(web.path("drive"))
    assert drive["openstack/latest/user_data"] == '{"ignition": {}}'
    # libvirt chose the first address when it got the definition.
    assert json.loads(drive["openstack/latest/meta_data.json"])["devices"] == [
        {
            "type": "disk",
            "bus": "pci",
            "address": pci_address(web.disk("claim")),
            "serial": "CLAIM-1",
            "tags": ["data"],
        },
        {"type": "disk", "bus": "scsi", "address": "0:0:0:0", "tags": ["scratch"]},
    ]
    assert web.files_of(web.path("map")) == {"a.conf": "x=1\n", "b.conf": "y=2\n"}
    assert web.files_of(web.path("answers")) == {"Unattend.xml": "<a/>"}
    modes = web.shell(f"find {DIRECTORY} -type f -printf '%m %u\\n' | sort -u").split("\n")
    assert modes == ["600 libvirt-qemu", ""]
    # The devices.
    assert web.disk("nothing").find("source") is None
    assert [web.disk("claim").findtext("serial"), web.disk("claim").find("boot").get("order")] == ["CLAIM-1", "1"]
    assert web.disk("drive").find("target").get("tray") == "open"
    discards = {name: web.disk(name).find("driver").get("discard") for name in ("claim", "empty", "thick", "overlay")}
    assert discards == {"claim": "unmap", "empty": "unmap", "thick": None, "overlay": "unmap"}
    web.virsh("start")
    again = web.declare(**options)
    assert again.get("actions") == [], again


@on_both
def test_a_running_domain(web: VolumeDomain) -> None:
    def seed(text: str) -> dict[str, Any]:
        return {"name": "seed", "cloudInitConfigDrive": {"userData": f"#cloud-config\n# {text}\n"}}

    drive = bus("seed", cdrom={"bus": "sata"})
    first = {
        "disks": [bus("one"), drive],
        "volumes": [{"name": "one", "emptyDisk": {"capacity": "4Mi"}}, seed("first")],
    }
    web.converge(**first)
    web.virsh("start")
    second = {
        "disks": [bus("one"), drive, bus("two", disk={"bus": "scsi"}), bus("three", disk={"bus": "virtio"}, tag="new")],
        "volumes": [
            {"name": "one", "emptyDisk": {"capacity": "8Mi"}},
            seed("second"),
            {"name": "two", "emptyDisk": {"capacity": "4Mi"}},
            {"name": "three", "persistentVolumeClaim": {"claimName": "data"}},
        ],
        "claims": CLAIMS,
    }
    old = web.path("seed")
    done = web.converge(**second)
    assert done["restart_reasons"] == []
    assert [name for name in done["actions"] if name.startswith(("plug", "change medium", "grow"))] == [
        "grow disk",
        "change medium",
        "plug disk",
        "plug disk",
    ]
    running = {name: web.disk(name, running=True).find("source").get("file") for name in ("seed", "two", "three")}
    assert running == {name: web.path(name) for name in ("seed", "two", "three")}
    assert web.shell('test ! -e "$0" && echo gone', old) == "gone\n"
    medium = web.files_of(running["seed"])
    assert "# second" in medium["openstack/latest/user_data"]
    [device] = json.loads(medium["openstack/latest/meta_data.json"])["devices"]
    assert device["address"] == pci_address(web.disk("three"))
    assert re.search(r"Capacity:\s+8388608", web.virsh("domblkinfo", "vda"))
    # What can't be done now is done at the next start.
    third = {**second, "disks": [bus("one", disk={"bus": "virtio"}, cache="writethrough"), *second["disks"][1:]]}
    done = web.declare(**third)
    assert done["actions"] == ["change definition"] and "'one'" in done["restart_reasons"][0]
    assert web.declare(**third)["restart_required"] is True
    assert web.disk("one", running=True).find("driver").get("cache") == "none"
    web.virsh("destroy")
    assert web.declare(**third)["restart_required"] is False
    assert web.disk("one").find("driver").get("cache") == "writethrough"


def test_what_is_not_declared_any_more(web: VolumeDomain) -> None:
    options = {
        "disks": [bus("scratch"), bus("claim"), bus("seed", cdrom={"bus": "sata"})],
        "volumes": [
            {"name": "scratch", "emptyDisk": {"capacity": "4Mi"}},
            {"name": "claim", "persistentVolumeClaim": {"claimName": "data"}},
            {"name": "seed", "cloudInitNoCloud": {"userData": "#cloud-config\n"}},
        ],
        "claims": CLAIMS,
    }
    before = web.definition()
    web.converge(**options)
    scratch, seed = web.path("scratch"), web.path("seed")
    # The disk of somebody else has such an alias, too.
    foreign = "<disk type='file'><source file='/srv/volumes/base'/><target dev='vdz' bus='virtio'/><alias name='ua-x'/>"
    web.execute(
        web.host, "virsh", "attach-device", web.name, "/dev/stdin", "--config", stdin=f"{foreign}<readonly/></disk>"
    )
    done = web.converge()
    assert done["actions"] == ["change definition", "remove file"]
    assert web.path("x") == "/srv/volumes/base" and "ua-scratch" not in web.definition()
    # Media have nothing but what is declared, and a guest wrote the rest.
    assert web.shell('ls "$0"; test ! -e "$1" && test -e /srv/volumes/data', scratch, seed).strip() == scratch
    assert web.converge(purge=True)["actions"] == ["remove file"]
    assert web.shell('test ! -e "$0" && echo gone', scratch) == "gone\n"
    web.virsh("detach-disk", "vdz", "--config")
    kept = [line for line in web.definition().splitlines() if "<controller" not in line and "<address" not in line]
    assert set(kept) <= set(before.splitlines()) | {"    </controller>"}


def test_ephemeral_data_is_discarded_while_the_domain_is_off(web: VolumeDomain) -> None:
    options = {
        "disks": [bus("os"), bus("kept")],
        "volumes": [
            {"name": "os", "ephemeral": {"persistentVolumeClaim": {"claimName": "base"}}},
            {"name": "kept", "emptyDisk": {"capacity": "4Mi"}},
        ],
        "claims": CLAIMS,
    }
    web.converge(**options)
    for name in ("os", "kept"):
        web.shell('qemu-io -f qcow2 -c "write -P 7 0 64k" "$0"', web.path(name))
    assert web.declare(**options)["actions"] == ["discard ephemeral data"]
    assert "7" not in web.shell('qemu-io -r -f qcow2 -c "read -v 0 16" "$0" | head -1 | cut -d: -f2', web.path("os"))
    assert "07" in web.shell('qemu-io -r -f qcow2 -c "read -v 0 16" "$0" | head -1 | cut -d: -f2', web.path("kept"))


def test_a_refused_declaration_changes_nothing(web: VolumeDomain) -> None:
    web.converge(disks=[bus("one")], volumes=[{"name": "one", "emptyDisk": {"capacity": "4Mi"}}])
    before = web.state()
    refused = web.declare(
        disks=[bus("one", lun={"bus": "sata"}), bus("two", disk={"bus": "ide"})],
        volumes=[{"name": "one", "emptyDisk": {"capacity": "1k"}}],
    )
    assert refused["error"] == "InvalidDeclaration"
    assert {path for _rule, path in refused["problems"]} >= {"disks[0].lun.bus", "disks[1].disk.bus"}
    for source, error in (
        ({"persistentVolumeClaim": {"claimName": "none"}}, "DependencyNotFound"),
        ({"persistentVolumeClaim": {"claimName": "base"}}, "InvalidInput"),
        ({"hostDisk": {"path": "/srv/volumes/none", "type": "Disk"}}, "NotFound"),
        ({"hostDisk": {"path": "/srv/volumes/big", "type": "DiskOrCreate", "capacity": "1Ei"}}, "NoSpace"),
        ({"emptyDisk": {"capacity": "2Mi"}}, "InvalidInput"),  # smaller than the existing one
    ):
        refused = web.declare(disks=[bus("one")], volumes=[{"name": "one", **source}], claims=CLAIMS)
        assert refused["error"] == error, refused
    # libvirt itself refuses this one, when the data of the volume exists already.
    refused = web.declare(
        disks=[bus("one"), bus("new", disk={"bus": "virtio", "pciAddress": "0000:00:00.0"})],
        volumes=[
            {"name": "one", "emptyDisk": {"capacity": "4Mi"}},
            {"name": "new", "emptyDisk": {"capacity": "4Mi"}},
        ],
    )
    assert refused["error"] == "LibvirtFailed", refused
    assert web.state() == before


def test_two_domains_do_not_write_to_one_image(web: VolumeDomain, domain: Callable[..., str]) -> None:
    other = VolumeDomain(web.host, domain(web.host, "other"), web.execute)
    volumes = [{"name": "one", "persistentVolumeClaim": {"claimName": "data"}}]
    assert other.declare(disks=[bus("one")], volumes=volumes, claims=CLAIMS)["changed"]
    refused = web.declare(disks=[bus("one")], volumes=volumes, claims=CLAIMS)
    assert [one[0] for one in refused["problems"]] == ["volume_in_use"]
    shared = {"disks": [bus("one", disk={"bus": "virtio"}, shareable=True)], "volumes": volumes, "claims": CLAIMS}
    assert web.declare(**shared)["error"] == "InvalidDeclaration"
    assert "error" not in other.declare(**shared)
    assert "error" not in web.declare(**shared)
    for one in (web, other):
        one.virsh("start")  # QEMU's locks let both write
        assert one.disk("one").find("driver").get("cache") == "none"
    for number, one in enumerate((web, other), start=7):
        let_qemu_write(one, "one", number)
        assert "verification failed" not in web.shell(
            f'qemu-io -r -U -f raw -c "read -P {number} 0 512" "$0"', web.path("one")
        )


def test_threads_and_queues(web: VolumeDomain) -> None:
    """QEMU itself tells the thread of each disk. The domain has one processor, so two threads are the limit."""
    names = ["first", "second", "third"]
    options = {
        "disks": [{**bus(name), "dedicatedIOThread": name == "first"} for name in names],
        "volumes": [{"name": name, "emptyDisk": {"capacity": "1Mi"}} for name in names],
        "io_threads_policy": "auto",
        "disable_hotplug": True,  # the domain has four ports
    }
    web.converge(**options)
    web.virsh("start")
    threads = {}
    for name in names:
        question = {"path": f"/machine/peripheral/ua-{name}", "property": "iothread"}
        request = json.dumps({"execute": "qom-get", "arguments": question})
        answer = json.loads(web.virsh("qemu-monitor-command", request))
        threads[name] = answer["return"].rpartition("/")[2]
    assert threads == {"first": "iothread2", "second": "iothread1", "third": "iothread1"}
    assert web.declare(**options)["actions"] == []
    # The domain runs with its threads, so another disk needs no restart.
    options["disks"].append(bus("fourth"))
    options["volumes"].append({"name": "fourth", "emptyDisk": {"capacity": "1Mi"}})
    assert web.converge(**options)["restart_reasons"] == []
    web.virsh("destroy")
    web.converge()
    assert "iothread" not in web.definition()


def test_the_module(web: VolumeDomain, module: Callable[..., dict[str, Any]], execute: Callable[..., str]) -> None:
    """Through Ansible, neither results nor logs have the secrets."""
    secret = "correct-horse-battery"
    options = {
        "domain": web.name,
        "directory": DIRECTORY,
        "disks": [bus("seed", cdrom={"bus": "sata"}), bus("token")],
        "volumes": [
            {"name": "seed", "cloudInitNoCloud": {"userData": f"#cloud-config\npassword: {secret}\n"}},
            {"name": "token", "secret": {"secretName": "api"}},
        ],
        "secrets": {"api": {"data": {"token": secret}}},
        "purge": True,
    }
    since = execute(web.host, "date", "+%s").strip()
    results = [
        module(web.host, "domain_volumes", check=True, **options),
        module(web.host, "domain_volumes", **options),
        module(web.host, "domain_volumes", **options),
    ]
    assert [one["changed"] for one in results] == [True, True, False]
    assert web.files_of(web.path("token")) == {"token": secret}
    refused = module(web.host, "domain_volumes", **{**options, "volumes": [*options["volumes"], {"name": "x"}]})
    (problem,) = refused["problems"]
    assert (problem["rule"], problem["path"], problem["value"]) == ("one_source", "volumes[2]", "no source"), problem
    require_failure(refused, InvalidDeclaration, names=[problem["accepted"]])
    assert secret not in json.dumps([*results, refused])
    assert secret not in execute(web.host, "journalctl", f"--since=@{since}", "--output=cat")


def test_the_guide(site: Lab, web: VolumeDomain, tmp_path: Path) -> None:
    """The task of the guide gives a domain the volumes of a manifest that was written for KubeVirt."""
    manifest = {
        "apiVersion": "kubevirt.io/v1",
        "kind": "VirtualMachine",
        "metadata": {"name": "web"},
        "spec": {
            "running": True,
            "dataVolumeTemplates": [],
            "template": {
                "spec": {
                    "domain": {
                        "devices": {
                            "blockMultiQueue": True,
                            "disks": [
                                {"name": "scratch", "disk": {"bus": "virtio"}, "errorPolicy": "report"},
                                {"name": "app", "disk": {}, "serial": "CVLY623300HK240D"},
                                {"name": "cloudinitdisk", "cdrom": {"bus": "sata"}},
                            ],
                            "interfaces": [{"name": "default", "masquerade": {}}],
                        },
                        "resources": {"requests": {"memory": "1Gi"}},
                    },
                    "networks": [{"name": "default", "pod": {}}],
                    "volumes": [
                        {"name": "scratch", "emptyDisk": {"capacity": "2Gi"}},
                        {"name": "app", "configMap": {"name": "app-config"}},
                        {"name": "cloudinitdisk", "cloudInitNoCloud": {"userData": "#cloud-config\n"}},
                    ],
                },
            },
        },
    }
    config = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "app-config"},
        "data": {"DATABASE": "staging"},
    }
    (tmp_path / "vm.yaml").write_text(yaml.safe_dump_all([manifest, config]))
    tasks = yaml.safe_load(block("docs/kubevirt.md", "Use").text)
    play = [{"hosts": "hv1", "gather_facts": False, "tasks": [*tasks, *tasks]}]
    (tmp_path / "play.yml").write_text(yaml.safe_dump(play))
    command = [str(ANSIBLE.with_name("ansible-playbook")), "-i", str(site.inventory), str(tmp_path / "play.yml")]
    done = ansible_process.run(command)
    assert "ok=2    changed=1 " in done.stdout, done.stdout + done.stderr
    scratch = web.disk("scratch").find("driver")
    assert scratch is not None and (scratch.get("error_policy"), scratch.get("queues")) == ("report", "1")
    assert web.info(web.path("scratch"))["virtual-size"] == 2 << 30
    assert web.disk("app").findtext("serial") == "CVLY623300HK240D"
    assert web.files_of(web.path("app")) == {"DATABASE": "staging"}
    default = "/var/lib/libvirt/granary-vmstore/volumes"
    assert web.path("cloudinitdisk").startswith(f"{default}/{web.virsh('domuuid').strip()}/")
    web.shell(f"rm -rf {default}")

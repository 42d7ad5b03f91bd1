# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""Declarations read back from domains, on real libvirts: another run with them changes nothing."""

from __future__ import annotations

import io
import json
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ansible_process
import pytest
import yaml
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import Conflict, DependencyNotFound
from container_images import Layout, make_tar, raw_disk
from documentation import block
from lab import Lab
from lab.guests import Guest
from refusal import require_failure
from volume_domain import DIRECTORY, VolumeDomain

ANSIBLE = Path(sys.executable).with_name("ansible")
VOLUMES = "/srv/info"
#: Images as image_info returns them: a disk for writing, a base, and a directory.
CLAIMS = [
    {"id": 7, "name": "data", "path": f"{VOLUMES}/data", "format": "qcow2", "persistent": True, "read_only": False},
    {"id": 8, "name": "base", "path": f"{VOLUMES}/base", "format": "raw", "persistent": False, "read_only": False},
    {"id": 9, "name": "tree", "path": f"{VOLUMES}/tree", "format": "dir", "persistent": True, "read_only": False},
]
SECRET = "correct-horse-battery"


@pytest.fixture(params=["hv1", "old"])
def web(
    engine: None, domain: Callable[..., str], execute: Callable[..., str], request: pytest.FixtureRequest
) -> Iterator[VolumeDomain]:
    """Define a domain without volumes, on a host with three images."""
    found = VolumeDomain(request.param, domain(request.param, "web", shared=True), execute)
    found.shell(
        f"rm -rf {VOLUMES}; mkdir -p {VOLUMES}/tree; chmod 755 /srv {VOLUMES}; cd {VOLUMES}; chown 100000:100000 tree; "
        "qemu-img create -q -f qcow2 data 20M; truncate -s 10M base; truncate -s 3M host; fallocate -l 2M thick"
    )
    yield found
    found.shell('virsh destroy "$0" || :', found.name)
    found.shell(f"rm -rf {VOLUMES} {DIRECTORY} /var/lib/libvirt/granary-test")


def on(name: str, **options: Any) -> dict[str, Any]:
    """Return a disk on virtio, or another device."""
    return {
        "name": name,
        **({"disk": {"bus": "virtio"}} if options.keys().isdisjoint(("disk", "cdrom")) else {}),
        **options,
    }


def full_declaration(host: str) -> dict[str, Any]:
    """Return a declaration with all that can be read back."""
    ids = {"allow_unmapped": True} if host == "old" else {"cache": "always"}
    read_only = {} if host == "old" else {"read_only": True}
    return {
        "disks": [
            on("root", boot_order=1, serial="ROOT", dedicated_io_thread=True),
            on("overlay", cache="writethrough"),
            on("container"),
            on("empty", disk={"bus": "scsi"}, error_policy="report", tag="data"),
            on("thick", disk={"bus": "scsi"}),
            on("host", disk={"bus": "virtio", "read_only": True}, io="threads"),
            on("full", block_size={"custom": {"logical": 512, "physical": 4096}}),
            on("metrics"),
            on("seed", cdrom={"bus": "sata"}),
            on("drive", cdrom={"bus": "sata", "tray": "open"}),
            on("map", cdrom={"bus": "scsi"}),
            on("answers", cdrom={"bus": "sata"}),
            on("nothing", cdrom={"bus": "sata"}),
        ],
        "filesystems": [
            {"name": "tree", "virtiofs": {**ids, **read_only}},
            {"name": "settings", "virtiofs": {"queue": 512, **ids}},
        ],
        "volumes": [
            {"name": "root", "persistent_volume_claim": {"claim_name": "data"}},
            {"name": "overlay", "ephemeral": {"persistent_volume_claim": {"claim_name": "base"}}},
            {"name": "container", "container_disk": {"image": f"oci-archive:{VOLUMES}/image.tar", "capacity": "2Mi"}},
            {"name": "empty", "empty_disk": {"capacity": "5Mi"}},
            {"name": "thick", "empty_disk": {"capacity": "3Mi"}, "thick": True},
            {"name": "host", "host_disk": {"path": f"{VOLUMES}/host", "type": "Disk"}},
            {"name": "full", "host_disk": {"path": f"{VOLUMES}/thick", "type": "Disk"}},
            {"name": "metrics", "downward_metrics": {}},
            {
                "name": "seed",
                "cloud_init_no_cloud": {"user_data": f"#cloud-config\n# {SECRET}\n", "network_data": "{}"},
            },
            {"name": "drive", "cloud_init_config_drive": {"user_data": SECRET}},
            {"name": "map", "config_map": {"name": "app", "volume_label": "OEMDRV"}},
            {"name": "answers", "sysprep": {"config_map": {"name": "windows"}}},
            {"name": "tree", "persistent_volume_claim": {"claim_name": "tree"}},
            {"name": "settings", "secret": {"secret_name": "api"}},
        ],
        "config_maps": {"app": {"data": {"a.conf": "x"}}, "windows": {"data": {"Unattend.xml": SECRET}}},
        "secrets": {"api": {"data": {"token": SECRET}}},
        "metadata": {
            "name": "vm",
            "namespace": "ns",
            "uid": "my-id",
            "hostname": "guest",
            "public_keys": ["ssh-rsa A"],
        },
        "io_threads_policy": "auto",
        "block_multi_queue": True,
        "downward_metrics": True,
    }


def texts_for(declaration: dict[str, Any], needed: list[dict[str, Any]]) -> dict[str, Any]:
    """Return a declaration with the texts of :func:`full_declaration`, whose names are those of volumes."""
    texts = {
        ("secrets", "seed"): {"userdata": f"#cloud-config\n# {SECRET}\n", "networkdata": "{}"},
        ("secrets", "drive"): {"userdata": SECRET},
        ("config_maps", "map"): {"a.conf": "x"},
        ("secrets", "answers"): {"Unattend.xml": SECRET},
        ("config_maps", "settings"): {"token": SECRET},
    }
    assert {(one["option"], one["name"]): set(one["needed_keys"]) for one in needed} == {
        place: set(data) for place, data in texts.items()
    }
    found: dict[str, Any] = {"config_maps": {}, "secrets": {}}
    for (option, name), data in texts.items():
        found[option][name] = {"data": data}
    return {**declaration, **found}


def test_a_declared_domain(site: Lab, web: VolumeDomain, tmp_path: Path) -> None:
    layout = Layout(tmp_path / "layout")
    layout.add("latest", make_tar(("disk/disk.img", raw_disk())))
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        archive.add(layout.path, ".")
    site.ssh(web.host, f"cat >{VOLUMES}/image.tar", stdin=data.getvalue())
    options = full_declaration(web.host)
    done = web.declare(**options, claims=CLAIMS)
    assert done.get("changed"), done
    web.declare(**options, claims=CLAIMS)  # the ConfigDrive has addresses now
    found = web.read_back(claims=CLAIMS)
    assert found["left_out"] == [] and SECRET not in json.dumps(found)
    declaration = found["declaration"]
    given = {one["name"]: one for one in options["disks"]}
    assert {one["name"]: one for one in declaration["disks"]} == given
    # With one processor, the policy adds nothing to the dedicated thread.
    assert {one: declaration[one] for one in declaration if one not in ("disks", "filesystems", "volumes")} == {
        one: options[one] for one in ("metadata", "block_multi_queue", "downward_metrics")
    }
    sources = {one["name"]: one for one in declaration["volumes"]}
    renamed = {
        "seed": {"cloud_init_no_cloud": {name: {"name": "seed"} for name in ("secret_ref", "network_data_secret_ref")}},
        "drive": {"cloud_init_config_drive": {"secret_ref": {"name": "drive"}}},
        "map": {"config_map": {"name": "map", "volume_label": "OEMDRV"}},
        "answers": {"sysprep": {"secret": {"name": "answers"}}},
        "settings": {"config_map": {"name": "settings"}},
    }
    renamed["container"] = {"container_disk": {**options["volumes"][2]["container_disk"], "persistent": True}}
    assert sources == {
        one["name"]: {"name": one["name"], **renamed[one["name"]]} if one["name"] in renamed else one
        for one in options["volumes"]
    }
    assert any("'container'" in warning for warning in found["warnings"])
    # A guest that fills its disk changes nothing, although new disks with all of their storage have another mode.
    web.shell(
        'qemu-io -f qcow2 -c "write 0 5M" "$0"; qemu-io -f raw -c "write 0 3M" "$1"',
        web.path("empty"),
        web.path("host"),
    )
    # A second run with the result changes nothing, while the domain is off and while it runs.
    again = {**texts_for(declaration, found["texts_needed"]), "claims": CLAIMS}
    assert [web.declare(**again).get("actions"), web.read_back(claims=CLAIMS)] == [[], found]
    web.virsh("start")
    running = web.read_back(claims=CLAIMS)
    assert running == {**found, "running": True}
    done = web.declare(**again)
    assert (done.get("actions"), done.get("restart_reasons")) == ([], []), done


def test_a_disk_of_somebody_else(web: VolumeDomain) -> None:
    """Disks without an alias are adopted as they are, also while the domain runs."""
    for target, file, *options in (
        ("vda", "data", "--subdriver", "qcow2"),
        ("sda", "host", "--targetbus", "sata", "--subdriver", "raw"),
        ("sdb", "thick", "--type", "cdrom", "--targetbus", "sata", "--subdriver", "raw"),
        ("sdc", "base", "--targetbus", "scsi", "--subdriver", "raw"),
    ):
        web.virsh("attach-disk", f"{VOLUMES}/{file}", target, "--driver", "qemu", *options, "--config")
    web.virsh("start")
    # The disk on another SCSI controller would move, and a qcow2 file is no host disk.
    alone = web.read_back()
    assert {one["name"] for one in alone["left_out"]} == {"vda", "sdc"}
    found = web.read_back(claims=CLAIMS[:1])
    declaration = found["declaration"]
    assert {one["name"] for one in found["left_out"]} == {"sdc"}
    assert declaration == {
        "disks": [
            on("vda", cache="writeback", error_policy="enospace"),
            on("sda", disk={"bus": "sata"}, cache="writeback", error_policy="enospace"),
            on("sdb", cdrom={"bus": "sata"}),
        ],
        "volumes": [
            {"name": "vda", "persistent_volume_claim": {"claim_name": "data"}, "thick": True},
            {"name": "sda", "host_disk": {"path": f"{VOLUMES}/host", "type": "Disk"}, "thick": True},
            {"name": "sdb", "host_disk": {"path": f"{VOLUMES}/thick", "type": "Disk"}},
        ],
        "disable_hotplug": True,
    }
    # The same name for other data may be an accident.
    other = [{"name": "vda", "host_disk": {"path": f"{VOLUMES}/base", "type": "Disk"}}]
    refused = web.declare(disks=[on("vda")], volumes=other)
    assert refused["error"] == Conflict.__name__ and f"{VOLUMES}/data" in refused["says"], refused
    done = web.converge(**declaration, claims=CLAIMS)
    assert done["actions"] == ["change definition"] and done["restart_required"]
    assert "sdc" not in str(done["diff"])
    # The adopted drive keeps the alias of libvirt while the domain runs. It becomes empty, and is gone after a restart.
    fewer = {**declaration, "disks": declaration["disks"][:2], "volumes": declaration["volumes"][:2], "claims": CLAIMS}
    assert f"{VOLUMES}/thick" in web.virsh("domblklist")
    assert web.declare(**fewer)["actions"] == ["change definition", "change medium"]
    assert f"{VOLUMES}/thick" not in web.virsh("domblklist")
    web.virsh("destroy")
    web.virsh("start")
    again = web.read_back(claims=CLAIMS[:1])
    assert {**again["declaration"], "claims": CLAIMS} == fewer
    assert again["warnings"] == [] and again["left_out"] == found["left_out"]
    done = web.declare(**fewer)
    assert (done["actions"], done["restart_required"]) == ([], False)


def test_a_domain_of_virt_install(
    site: Lab, cold: Guest, execute: Callable[..., str], module: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    """The domain becomes a play by the modules, and its guest boots as before."""
    domain = VolumeDomain("hv1", cold.name, execute)
    path = domain.virsh("domblklist").split()[-1]
    claims = [{**CLAIMS[0], "path": path}]
    before = domain.definition()
    options = {"domain": cold.name, "claims": claims}
    [found] = module("hv1", "domain_volumes_info", **options)["domains"]
    [every] = [one for one in module("hv1", "domain_volumes_info")["domains"] if one["name"] == cold.name]
    assert [one["name"] for one in every["left_out"]] == ["vda"]
    tasks = yaml.safe_load(block("docs/kubevirt.md", "A domain that exists").text.replace("web1", cold.name))
    (tmp_path / "play.yml").write_text(yaml.safe_dump([{"hosts": "hv1", "gather_facts": False, "tasks": tasks}]))
    command = [str(ANSIBLE.with_name("ansible-playbook")), "-i", str(site.inventory), str(tmp_path / "play.yml")]
    done = ansible_process.run(command)
    assert done.returncode == 0, done.stdout + done.stderr
    assert yaml.safe_load(execute("hv1", "cat", f"/root/{cold.name}.yml")) == every["declaration"]
    execute("hv1", "rm", f"/root/{cold.name}.yml")
    runs = [module("hv1", "domain_volumes", **options, **found["declaration"]) for _run in range(2)]
    assert [one["changed"] for one in runs] == [True, False]
    after = domain.definition()
    new = set(after.splitlines()) - set(before.splitlines())
    assert [line.split()[0] for line in sorted(new) if "granary" not in line and "metadata" not in line] == [
        "<alias",
        "<driver",
        "<disk",
    ]
    [again] = module("hv1", "domain_volumes_info", **options)["domains"]
    assert again == {**found, "warnings": []}
    cold.start()
    cold.wait_ready()
    require_failure(module("hv1", "domain_volumes_info", domain="none"), DependencyNotFound, names=["'none'"])

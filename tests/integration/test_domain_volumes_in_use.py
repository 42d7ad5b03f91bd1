# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""The data of volumes that a guest, a saved state, a snapshot or another disk needs, on a real libvirt."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from container_images import Layout, make_tar
from lab import Lab
from volume_domain import CLAIMS, DIRECTORY, VIRTIO, VolumeDomain


@pytest.fixture
def web(engine: None, domain: Callable[..., str], execute: Callable[..., str]) -> Iterator[VolumeDomain]:
    """Define a domain without volumes, on a host with two images."""
    found = VolumeDomain("hv1", domain("hv1", "web"), execute)
    found.shell(
        "rm -rf /srv/volumes; mkdir -p /srv/volumes; chmod 755 /srv /srv/volumes; truncate -s 20M /srv/volumes/data; "
        "qemu-img create -q -f qcow2 /srv/volumes/base 10M"
    )
    yield found
    found.shell(f"rm -rf /srv/volumes {DIRECTORY} /var/lib/libvirt/granary-test")


def empty(*names: str) -> dict[str, Any]:
    """Return the options for empty disks on virtio."""
    return {
        "disks": [{"name": name, **VIRTIO} for name in names],
        "volumes": [{"name": name, "emptyDisk": {"capacity": "4Mi"}} for name in names],
    }


def test_a_saved_state_keeps_its_files(web: VolumeDomain) -> None:
    """The next start resumes the guest, whose memory belongs to the present data of its disks."""

    def options(text: str, *further: str) -> dict[str, Any]:
        found = empty(*further)
        found["disks"] += [{"name": "os", **VIRTIO}, {"name": "seed", "cdrom": {"bus": "sata"}}]
        found["volumes"] += [
            {"name": "os", "ephemeral": {"persistentVolumeClaim": {"claimName": "base"}}},
            {"name": "seed", "cloudInitNoCloud": {"userData": f"#cloud-config\n# {text}\n"}},
        ]
        return {**found, "claims": CLAIMS, "purge": True}

    web.converge(**options("first", "gone"))
    web.virsh("start")
    web.virsh("managedsave")
    web.shell('qemu-io -f qcow2 -c "write -P 7 0 64k" "$0"', web.path("os"))
    files = [web.path(name) for name in ("os", "seed", "gone")]
    done = web.converge(**options("second"))
    assert done["actions"] == ["write medium", "change definition"] and len(done["restart_reasons"]) == 1
    assert "07" in web.shell('qemu-io -r -f qcow2 -c "read -v 0 16" "$0" | head -1 | cut -d: -f2', files[0])
    web.virsh("start")
    assert all(web.shell('test -e "$0"; echo there', file) == "there\n" for file in files)
    web.virsh("destroy")
    assert web.declare(**options("second"))["actions"] == ["discard ephemeral data", "remove file", "remove file"]


def test_a_disk_that_its_guest_holds_is_unplugged_later(web: VolumeDomain) -> None:
    """A paused guest releases nothing."""
    web.converge(**empty("old"))
    web.virsh("start")
    web.virsh("suspend")
    web.converge(**empty("old", "plugged"))
    files = [web.path(name) for name in ("old", "plugged")]
    # The new disk gets another place than the disk that the guest still has.
    done = web.declare(**empty("new"), purge=True)
    assert done["actions"] == ["create empty disk", "change definition", "plug disk"], done
    assert len(done["restart_reasons"]) == 2
    targets = [web.disk(name, running=True).find("target").get("dev") for name in ("old", "plugged", "new")]
    assert len(set(targets)) == 3
    again = [web.declare(**empty("new"), purge=True, check=check) for check in (True, False)]
    assert again[0]["actions"] == ["unplug disk"] * 2 + ["remove file"] * 2, again
    assert again[1]["actions"] == [] and len(again[1]["restart_reasons"]) == 2, again
    web.virsh("destroy")
    assert web.converge(**empty("new"), purge=True)["actions"] == ["remove file"] * 2
    assert all(web.shell('test ! -e "$0"; echo gone', file) == "gone\n" for file in files)


def test_what_a_running_domain_keeps_is_reported_until_it_stops(web: VolumeDomain, domain: Callable[..., str]) -> None:
    """Each later run finds the same reasons, although the definition has lost the devices and their record."""
    web.virsh("undefine")
    domain(web.host, web.name, shared=True)
    own = "<disk type='file'><source file='/srv/volumes/data'/><target dev='sdb' bus='sata'/></disk>"
    web.execute(web.host, "virsh", "attach-device", web.name, "/dev/stdin", "--config", stdin=own)
    sata = {"disk": {"bus": "sata"}}
    options: dict[str, Any] = {
        "disks": [{"name": "sda", **sata}, {"name": "seed", "cdrom": {"bus": "sata"}}],
        "filesystems": [{"name": "texts", "virtiofs": {}}],
        "volumes": [
            {"name": "sda", "emptyDisk": {"capacity": "4Mi"}},
            {"name": "seed", "configMap": {"name": "app"}},
            {"name": "texts", "configMap": {"name": "app"}},
        ],
        "config_maps": {"app": {"data": {"a": "1"}}},
        "downward_metrics": True,
    }
    web.declare(**options)
    web.virsh("start")
    # The domain has started without a record of the disk that this run adopts.
    options["disks"].append({"name": "sdb", **sata})
    options["volumes"].append({"name": "sdb", **CLAIM})
    assert "error" not in web.declare(**options, claims=CLAIMS)
    web.virsh("suspend")
    first = web.declare(purge=True)
    said = ["sda", "seed", "sdb", "texts", "metrics"]
    assert all(any(name in reason for reason in first["restart_reasons"]) for name in said), first
    for _again in range(2):
        later = web.declare(purge=True)
        assert later["restart_required"] is True, later
        assert sorted(later["restart_reasons"]) == sorted(first["restart_reasons"])
        assert later["changed"] is False, later
    web.virsh("destroy")
    stopped = web.declare(purge=True)
    assert stopped["restart_required"] is False and set(stopped["actions"]) == {"remove file"}, stopped
    assert web.converge(purge=True)["actions"] == []


def test_a_snapshot_of_another_program_stays(web: VolumeDomain) -> None:
    options = empty("own", "claim")
    options["volumes"][1] = {"name": "claim", "persistentVolumeClaim": {"claimName": "data"}}
    options.update(claims=CLAIMS, purge=True)
    web.converge(**options)
    web.virsh("start")
    web.virsh("snapshot-create-as", "before-upgrade", "--disk-only", "--no-metadata")
    before = web.state()
    for state in ("running", "shut off"):
        assert web.virsh("domstate").strip() == state
        refused = web.declare(**options)
        assert refused["error"] == "Conflict" and web.path("own") in refused["says"], refused
        if state == "running":
            web.virsh("destroy")
    assert web.state() == before


CLAIM = {"persistentVolumeClaim": {"claimName": "data"}}
NEW = {"hostDisk": {"path": "/srv/volumes/new", "type": "DiskOrCreate", "capacity": "4Mi"}}


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (CLAIM, {"persistentVolumeClaim": {"claimName": "7"}}),
        (CLAIM, {"hostDisk": {"path": "/srv/volumes/link", "type": "Disk"}}),
        (CLAIM, {"ephemeral": {"persistentVolumeClaim": {"claimName": "7"}}}),
        (NEW, NEW),
    ],
)
def test_two_disks_of_a_domain_are_not_the_same_data(
    web: VolumeDomain, first: dict[str, Any], second: dict[str, Any]
) -> None:
    web.shell("ln /srv/volumes/data /srv/volumes/link")
    options = empty("one", "two")
    for volume, source in zip(options["volumes"], (first, second), strict=True):
        del volume["emptyDisk"]
        volume.update(source)
    before = web.state()
    assert web.declare(**options, claims=CLAIMS)["error"] == "Conflict"
    # A disk of somebody else in the same domain.
    path = "/srv/volumes/data" if "hostDisk" not in first else "/srv/volumes/new"
    device = f"<disk type='file'><source file='{path}'/><target dev='vdz' bus='virtio'/></disk>"
    web.execute(web.host, "virsh", "attach-device", web.name, "/dev/stdin", "--config", stdin=device)
    options = {name: found[:1] for name, found in options.items()}
    assert web.declare(**options, claims=CLAIMS)["error"] == "Conflict"
    web.virsh("detach-disk", "vdz", "--config")
    assert web.state()[1] == before[1] and web.shell("ls /srv/volumes").split() == ["base", "data", "link"]


def test_a_host_disk_is_no_file_of_the_system_or_of_another_volume(web: VolumeDomain) -> None:
    web.converge(**empty("own"))
    web.shell("ln -s /etc/passwd /srv/volumes/link; ln -s /mnt/not-mounted/disk /srv/volumes/later")
    before = web.state()
    for path, error in (
        ("/etc/shadow", "PathNotAllowed"),
        ("/etc/cron.d/new", "PathNotAllowed"),
        ("/srv/volumes/link", "PathNotAllowed"),
        (web.path("own"), "PathNotAllowed"),
        (f"{DIRECTORY}/new", "PathNotAllowed"),
        ("/dev/null", "FileAccessFailed"),
        ("/srv/volumes/later", "NotFound"),
    ):
        kind = {"type": "DiskOrCreate", "capacity": "4Mi"}
        options = {**empty("one"), "volumes": [{"name": "one", "hostDisk": {"path": path, **kind}}]}
        assert web.declare(**options)["error"] == error, path
    assert web.state() == before
    assert web.shell("readlink /srv/volumes/later; ls /etc/cron.d") == "/mnt/not-mounted/disk\ne2scrub_all\n"


def test_what_qemu_writes_into_a_header_opens_no_file(web: VolumeDomain, site: Lab, tmp_path: Path) -> None:
    """A guest that broke out into its QEMU can write any name into the header of its disks."""
    layout = Layout(tmp_path / "layout")
    layout.add("latest", make_tar(("disk/disk.img", b"\0" * (1 << 20))))
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        archive.add(layout.path, ".")
    site.ssh(web.host, "cat >/srv/volumes/image.tar; head -c 1M /dev/zero >/srv/secret", stdin=data.getvalue())
    options = empty("own", "image")
    image = {"image": "oci-archive:/srv/volumes/image.tar", "persistent": True}
    options["volumes"][1] = {"name": "image", "containerDisk": image}
    web.declare(**options)
    assert web.declare(**options)["actions"] == []
    own, overlay = web.path("own"), web.path("image")
    for path in (own, overlay):
        web.shell('qemu-img rebase -u -F raw -b /srv/secret "$0"', path)
    # libvirt gives a backing file that it finds to QEMU.
    web.virsh("start")
    assert web.shell("stat -c %U /srv/secret").strip() == "root"
    assert "/srv/secret" not in web.virsh("dumpxml")
    web.virsh("destroy")
    web.declare()
    options = {name: found[1:] for name, found in options.items()}
    for name in ("json:{", "relative", "/srv/secret"):  # the definition doesn't have the base any more
        web.shell('qemu-img rebase -u -F raw -b "$1" "$0"', overlay, name)
        refused = web.declare(**options)
        assert refused["error"] == "Conflict", refused


def test_purge_keeps_an_image_of_somebody_else(web: VolumeDomain, module: Callable[..., dict[str, Any]]) -> None:
    """A template with the name of an image that exists imports nothing."""
    image = {"datastore": "volumes", "type": "datablock", "size": "4M", "format": "raw", "persistent": True}
    catalog, base = "/srv/volumes/catalog.sqlite", "/srv/volumes/datastore"
    web.shell('mkdir "$0"', base)
    for name, given in (
        (
            "datastore",
            {"name": "volumes", "type": "image", "ds_driver": "fs", "tm_driver": "shared", "base_path": base},
        ),
        ("image", {"name": "precious", **image}),
    ):
        made = module(web.host, name, catalog=catalog, **given)
        assert "msg" not in made, made
    size = {"resources": {"requests": {"storage": "4Mi"}}, "storage_class_name": "volumes"}
    template = {"spec": {"source": {"blank": {}}, "storage": size}}
    names = ("precious", "imported")
    options = {
        **empty(*names),
        "volumes": [{"name": name, "dataVolume": {"name": name}} for name in names],
        "data_volume_templates": [{"metadata": {"name": name}, **template} for name in names],
        "catalog": catalog,
        "purge": True,
    }
    assert "error" not in web.declare(**options)
    assert web.declare(**options)["actions"] == []
    done = web.declare(catalog=catalog, purge=True)
    left = module(web.host, "image_info", catalog=catalog)["images"]
    assert [one["name"] for one in left] == ["precious"], (done, left)

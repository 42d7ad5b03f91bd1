# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""Disks of VMs on a front-end that is its own host."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import (
    Conflict,
    DependencyNotFound,
    InvalidInput,
    NotFound,
    UnsupportedAction,
    VmstoreError,
)
from refusal import refused
from vm_site import Site, content, describe, used

HOST = os.uname().nodename


@pytest.mark.parametrize("image", ["raw", "qcow2"])
def test_a_clone_on_the_host(site: Site, image: str) -> None:
    done = site.four(vm="web", image=image)
    assert content(site.disk(), image) == image.encode()
    assert describe(site.disk())["format"] == image
    [disk] = done.result["disks"]
    assert (disk["path"], disk["format"], disk["size_mb"], disk["backing_chain"]) == (str(site.disk()), image, 2, [])
    assert (disk["image"], disk["clone"], disk["host"], disk["target"]) == (image, "full", HOST, None)
    assert site.query("SELECT id, name, domain, host, datastore_id, state FROM vm") == [
        (0, "web", "web", HOST, 0, "ready")
    ]
    assert site.query("SELECT vm_id, disk_id, format, size_mb, linked, state FROM disk") == [
        (0, 0, image, 2, 0, "ready")
    ]


def test_a_clone_of_a_shared_qcow2_image_is_linked_by_default(site: Site) -> None:
    [disk] = site.four(vm="web", image="shared-qcow2", datastore="shared-system").result["disks"]
    found = site.disk(datastore=100)
    assert (disk["clone"], disk["backing_chain"]) == ("linked", [str(site.image("shared-qcow2"))])
    assert describe(found)["full-backing-filename"] == str(site.image("shared-qcow2"))
    assert content(found, "qcow2") == b"shared-qcow2"


@pytest.mark.parametrize("image", ["shared-qcow2", "shared-raw"])
def test_a_full_clone_of_a_shared_image(site: Site, image: str) -> None:
    site.four(vm="web", image=image, datastore="shared-system", clone="full")
    found = site.disk(datastore=100)
    assert "backing-filename" not in describe(found)
    assert content(found, image.removeprefix("shared-")) == image.encode()


@pytest.mark.parametrize("image", ["raw", "qcow2"])
def test_a_larger_clone(site: Site, image: str) -> None:
    site.four(vm="web", image=image, size=7)
    assert describe(site.disk())["virtual-size"] == 7 << 20
    assert content(site.disk(), image) == image.encode()


def test_empty_disks_in_a_list(site: Site) -> None:
    site.four(
        vm="web",
        disks=[
            {"size": 3},
            {"size": 4, "format": "qcow2"},
            {"disk": 9, "size": 20, "fs": "ext4"},
            {"size": 1, "fs": "swap"},
        ],
    )
    assert [describe(site.disk(number))["format"] for number in (0, 1, 9, 3)] == ["raw", "qcow2", "raw", "raw"]
    assert [describe(site.disk(number))["virtual-size"] >> 20 for number in (0, 1, 9, 3)] == [3, 4, 20, 1]
    kinds = [
        subprocess.run(
            ["blkid", "-p", "-o", "value", "-s", "TYPE", str(site.disk(one))],
            capture_output=True,
            text=True,
            check=False,
        )
        for one in (9, 3)
    ]
    assert [kind.stdout.strip() for kind in kinds] == ["ext4", "swap"]


def test_a_persistent_image_goes_to_a_vm_and_back(site: Site) -> None:
    [disk] = site.four(vm="web", image="mine").result["disks"]
    assert (disk["persistent"], disk["clone"]) == (True, None)
    site.disk().write_bytes(b"written by the guest".ljust(2 << 20, b"\0"))
    site.four(vm="web", disk=0, state="absent")
    assert not site.disk().exists()
    assert content(site.image("mine"), "raw") == b"written by the guest"
    assert site.query("SELECT count(*) FROM disk") == [(0,)]


def test_a_persistent_shared_image_is_a_link(site: Site) -> None:
    site.four(vm="web", image="shared-mine", datastore="shared-system")
    found = site.disk(datastore=100)
    assert found.is_symlink()
    assert content(found, "qcow2") == b"shared-mine"
    site.four(vm="web", state="absent")
    assert not found.parent.exists()
    assert content(site.image("shared-mine"), "qcow2") == b"shared-mine"


def test_a_persistent_image_grows_as_a_disk(site: Site) -> None:
    site.four(vm="web", image="shared-mine", datastore="shared-system", size=5)
    assert describe(site.image("shared-mine"))["virtual-size"] == 5 << 20
    assert site.query("SELECT size_mb FROM image WHERE name = 'shared-mine'") == [(5,)]


def test_a_persistent_image_is_the_disk_of_one_vm(site: Site) -> None:
    site.run(vm="web", image="mine")
    before = site.dump()
    with refused(
        Conflict,
        says=f"image: 'mine' is persistent and already the disk 0 of the VM 'web' on the host '{HOST}', and a "
        "persistent image is one disk only.",
    ):
        site.run(vm="other", image="mine")
    with refused(Conflict, names=["'mine'", "disk 0"]):
        site.run(vm="web", disk=1, image="mine")
    assert site.dump() == before


def test_disks_that_are_not_in_the_list_stay(site: Site) -> None:
    site.run(vm="web", disks=[{"size": 1}, {"size": 2}, {"size": 3}])
    assert [one["disk"] for one in site.run(vm="web", disks=[{"size": 1}]).result["disks"]] == [0, 1, 2]
    site.four(vm="web", disks=[{"disk": 1, "size": 2}], exclusive=True)
    assert [site.disk(number).exists() for number in (0, 1, 2)] == [False, True, False]


def test_a_vm_is_removed_with_its_disks_and_its_directory(site: Site) -> None:
    site.run(vm="web", disks=[{"image": "raw"}, {"image": "mine"}])
    done = site.four(vm="web", state="absent")
    assert [action.name for action in done.actions] == ["remove disk", "return disk to its image", "remove VM"]
    assert not site.disk().parent.exists()
    assert site.query("SELECT count(*) FROM vm") == site.query("SELECT count(*) FROM disk") == [(0,)]
    site.run(vm="web", size=1)
    assert site.query("SELECT id FROM vm") == [(1,)]


def test_many_vms_in_one_run(site: Site) -> None:
    vms = [{"vm": f"vm{number}", "image": "raw", "size": 2 + number} for number in range(5)]
    done = site.four(vms=vms)
    assert [vm["id"] for vm in done.result["vms"]] == list(range(5))
    assert [describe(site.disk(vm=number))["virtual-size"] >> 20 for number in range(5)] == [2, 3, 4, 5, 6]


def test_a_disk_grows(site: Site) -> None:
    site.run(vm="web", image="qcow2")
    done = site.four(vm="web", size=6)
    assert [action.name for action in done.actions] == ["grow disk"]
    assert describe(site.disk())["virtual-size"] == 6 << 20
    assert site.query("SELECT size_mb FROM disk") == [(6,)]


def test_a_disk_does_not_shrink(site: Site) -> None:
    site.run(vm="web", size=5)
    with refused(
        InvalidInput,
        says="size: '4M' is not accepted: the disk 0 of VM 'web' has 5 MiB and doesn't shrink without force.",
    ):
        site.run(vm="web", size=4)


@pytest.mark.parametrize("image_format", ["raw", "qcow2"])
def test_a_disk_shrinks_with_force(site: Site, image_format: str) -> None:
    site.run(vm="web", size=5, format=image_format)
    done = site.four(vm="web", size=2, force=True)
    assert [action.name for action in done.actions] == ["shrink disk"]
    assert describe(site.disk(), "-f", image_format)["virtual-size"] == 2 << 20
    assert site.query("SELECT size_mb FROM disk") == [(2,)]


def test_a_persistent_image_shrinks_as_a_disk(site: Site) -> None:
    site.run(vm="web", image="mine", size=4)
    site.four(vm="web", size=3, force=True)
    site.run(vm="web", state="absent")
    assert site.query("SELECT size_mb FROM image WHERE name = 'mine'") == [(3,)]
    assert site.image("mine").stat().st_size == 3 << 20


def test_a_disk_keeps_the_data_at_its_end(site: Site) -> None:
    site.run(vm="web", disks=[{"size": 5}, {"image": "shared-qcow2"}], datastore="shared-system")
    disk = site.disk(datastore=100)
    with disk.open("r+b") as file:
        file.seek((5 << 20) - 1)
        file.write(b"x")
    before = site.dump()
    with refused(Conflict, names=[disk]):
        site.run(vm="web", size=2, force=True)
    with refused(
        Conflict,
        says="size: the disk 1 of VM 'web' can't shrink, because it has snapshots or is an overlay.",
    ):
        site.run(vm="web", disk=1, size=1, force=True)
    with used(disk), refused(Conflict, names=["disk 0 of VM 'web'"]):
        site.run(vm="web", size=2, force=True)
    assert site.dump() == before
    assert disk.read_bytes()[-1:] == b"x"


def test_a_lost_disk_is_created_again(site: Site) -> None:
    site.run(vm="web", disks=[{"image": "raw"}, {"size": 3}])
    site.disk().unlink()
    done = site.four(vm="web", disks=[{"image": "raw"}, {"size": 3}])
    assert [(action.name, action.subject) for action in done.actions] == [("create lost disk", "disk 0 of VM 'web'")]
    assert content(site.disk(), "raw") == b"raw"


@pytest.mark.parametrize("options", [{"image": "mine"}, {"disk": 0, "state": "absent"}, {"state": "absent"}])
def test_lost_data_of_a_persistent_image_is_never_replaced(site: Site, options: dict[str, object]) -> None:
    site.run(vm="web", image="mine")
    site.disk().unlink()
    before = site.dump()
    with refused(NotFound, names=["'mine'", site.disk()]):
        site.run(vm="web", **options)
    assert (site.dump(), site.disk().exists()) == (before, False)


def test_a_foreign_file_is_not_replaced(site: Site) -> None:
    site.run(vm="web", size=1)
    site.disk(1).write_text("foreign")
    with refused(
        Conflict,
        says=f"disk: {HOST}:{site.disk(1)} exists and is no disk of the VM 'web' in the catalog {site.catalog}: move "
        "it away, or choose another number.",
    ):
        site.run(vm="web", disk=1, size=1)
    assert site.disk(1).read_text() == "foreign"


def test_another_file_in_the_place_of_a_disk_is_not_used(site: Site, tmp_path: Path) -> None:
    site.run(vm="web", image="shared-qcow2", datastore="shared-system")
    found = site.disk(datastore=100)
    target = tmp_path / "elsewhere"
    target.write_bytes(b"secret")
    found.unlink()
    found.symlink_to(target)
    with refused(Conflict, names=[found]):
        site.run(vm="web", image="shared-qcow2")
    assert target.read_bytes() == b"secret"


@pytest.mark.parametrize(
    ("made", "wanted", "option"),
    [
        ({"image": "raw"}, {"image": "qcow2"}, "image: the disk 0 is made of the image 'raw'"),
        ({"size": 1}, {"image": "raw"}, "image: the disk 0 is an empty disk"),
        ({"size": 1}, {"size": 1, "format": "qcow2"}, "format: the disk 0 is made as raw"),
        ({"size": 1, "fs": "swap"}, {"size": 1, "fs": "ext4"}, "fs: the disk 0 is made with swap"),
        (
            {"image": "shared-qcow2", "datastore": "100"},
            {"image": "shared-qcow2", "clone": "full"},
            "clone: the disk 0 is a linked clone",
        ),
    ],
)
def test_a_disk_keeps_its_origin(site: Site, made: dict[str, object], wanted: dict[str, object], option: str) -> None:
    site.run(vm="web", **made)
    with refused(Conflict, names=[option, "remove it with state=absent first"]):
        site.run(vm="web", **wanted)


@pytest.mark.parametrize("check", [True, False])
@pytest.mark.parametrize(
    ("options", "kind", "named"),
    [
        ({"size": 1, "datastore": "1"}, UnsupportedAction, "'default' is of type 'image'"),
        ({}, NotFound, "a new one needs disks"),
        ({"vm": "17", "size": 1}, NotFound, "there is no VM 17"),
        ({"disk": 0}, InvalidInput, "the new disk 0 needs a size, or an image"),
        ({"image": "qcow2", "clone": "linked"}, InvalidInput, "its transfer driver is local"),
        ({"image": "mine", "clone": "full"}, InvalidInput, "'mine' is persistent, so the disk is no clone"),
        ({"image": "raw", "size": 1}, InvalidInput, "the image 'raw' has 2 MiB"),
        ({"size": 10, "fs": "nofs"}, InvalidInput, "nofs"),
        ({"vm": "a/b", "size": 1}, InvalidInput, "a/b"),
    ],
)
def test_a_refusal_changes_nothing(
    site: Site, check: bool, options: dict[str, object], kind: type[VmstoreError], named: str
) -> None:
    before = site.dump()
    with refused(kind, names=[named]):
        site.run(check=check, **{"vm": "web", **options})
    assert site.dump() == before
    assert not site.disk().parent.exists()


@pytest.mark.parametrize("options", [{"image": "none"}, {"size": 1, "datastore": "none"}])
def test_what_an_earlier_task_may_create_is_a_warning_in_check_mode(site: Site, options: dict[str, object]) -> None:
    with refused(DependencyNotFound, names=["'none'"]):
        site.run(vm="web", **options)
    found = site.run(check=True, vm="web", **options)
    assert "'none'" in found.warnings[0]
    assert found.changed


def test_the_data_of_an_image_must_exist(site: Site) -> None:
    site.image("raw").unlink()
    with refused(
        NotFound,
        says=f"The data of the image 'raw' is not at {site.image('raw')}: make it again with the module image first.",
    ):
        site.run(vm="web", image="raw")


def test_an_error_of_a_list_names_the_vm(site: Site) -> None:
    with refused(
        InvalidInput, option="size", says="vms[1] (b): size is missing: the new disk 0 needs a size, or an image."
    ):
        site.run(vms=[{"vm": "a", "size": 1}, {"vm": "b", "disk": 0}])
    with refused(Conflict, names=["vms[1] (0)", "more than once"]):
        site.run(vm="a", size=1)
        site.run(vms=[{"vm": "a"}, {"vm": "0"}])


# Attacks


def test_the_header_of_another_format_in_a_raw_disk_is_data(site: Site, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret".ljust(1 << 20, b"\0"))
    site.run(vm="web", image="mine")
    header = tmp_path / "header"
    command = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", str(secret), str(header)]
    subprocess.run(command, check=True)
    with open(site.disk(), "r+b") as disk:
        disk.write(header.read_bytes())
    assert site.run(vm="web", image="mine").actions == []
    site.run(vm="web", state="absent")
    assert site.image("mine").stat().st_size == 2 << 20
    assert site.image("mine").read_bytes().startswith(header.read_bytes())
    assert site.query("SELECT format FROM image WHERE name = 'mine'") == [("raw",)]


def test_a_disk_with_another_backing_file_is_not_used(site: Site, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(2 << 20))
    site.run(vm="web", image="shared-qcow2", datastore="shared-system")
    layer = site.disk(datastore=100).resolve()
    command = ["qemu-img", "rebase", "-u", "-f", "qcow2", "-F", "raw", "-b", str(secret), str(layer)]
    subprocess.run(command, check=True)
    with refused(Conflict, names=[secret]):
        site.run(vm="web", size=9)
    site.four(vm="web", state="absent")
    assert secret.exists()


@pytest.mark.parametrize("place", ["vm", "datastore"])
def test_a_link_in_the_place_of_a_directory_is_not_followed(site: Site, tmp_path: Path, place: str) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    os.chown(elsewhere, 1234, 1234)
    link = site.disk().parent if place == "vm" else site.disk().parent.parent
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(elsewhere)
    os.chown(link, 4321, 4321, follow_symlinks=False)
    before = site.dump()
    with pytest.raises(VmstoreError):
        site.run(vm="web", image="raw")
    assert list(elsewhere.iterdir()) == []
    assert [line for line in site.dump() if line not in before] in ([], ["INSERT INTO \"counter\" VALUES('vm',1);"])


def test_a_pipe_with_the_name_of_a_disk_is_a_foreign_file(site: Site) -> None:
    site.run(vm="web", size=1)
    os.mkfifo(site.disk(1))
    with refused(Conflict, names=[site.disk(1)]):
        site.run(vm="web", disk=1, size=1)
    site.disk().unlink()
    os.mkfifo(site.disk())
    with refused(Conflict, says=f"{site.disk()} is not used: it is neither a regular file nor a link."):
        site.run(vm="web", size=1)

# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""The sources of volumes, found from files that qemu-img and xorriso created."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import VmstoreError
from ansible_collections.granary.vmstore.plugins.module_utils._host.text_directory import TextDirectory
from ansible_collections.granary.vmstore.plugins.module_utils._image.container.store import CachedDisk, DiskStore
from ansible_collections.granary.vmstore.plugins.module_utils._image.iso_image import IsoLabels, iso_bytes
from ansible_collections.granary.vmstore.plugins.module_utils._image.volume_files import VolumeDirectory
from ansible_collections.granary.vmstore.plugins.module_utils._libvirt.devices.filesystem import VirtioFs
from ansible_collections.granary.vmstore.plugins.module_utils._libvirt.devices.volume_disk import DiskLayer, VolumeDisk
from ansible_collections.granary.vmstore.plugins.module_utils._model.metrics import metrics_file
from ansible_collections.granary.vmstore.plugins.module_utils._service.volume.claims import Claim
from ansible_collections.granary.vmstore.plugins.module_utils._service.volume.found_sources import (
    HostImages,
    SourceFinder,
    read_container_disks,
)
from ansible_collections.granary.vmstore.plugins.module_utils._volume.media import Identity

UUID = "5d307ca9-b3ef-428c-8861-06e72d69f223"
MIB = 1 << 20


def disk(path: Path | str, format: str = "raw", name: str = "a") -> VolumeDisk:
    return VolumeDisk(name, "vda", "virtio", layer=DiskLayer(str(path), False, format))


def cached(*names: str, checksum: str = "c" * 64, path: str | None = None) -> CachedDisk:
    digest = "sha256:" + "d" * 64
    return CachedDisk(names, "amd64", path, digest, (), "disk/x", checksum, "raw", MIB, MIB, 0)


@pytest.fixture
def finder(tmp_path: Path) -> SourceFinder:
    own = tmp_path / "volumes" / UUID
    own.mkdir(parents=True)
    claims = {
        str(tmp_path / name): Claim(name, str(tmp_path / name), format, True, False)
        for name, format in (("image", "qcow2"), ("imported", "raw"), ("tree", "dir"))
    }
    (tmp_path / "tree").mkdir()
    (tmp_path / "link").symlink_to("image")
    images = HostImages(claims, {str(tmp_path / "disks" / "c"): cached("quay.io/a:1", path="/disk/x")})
    return SourceFinder(images, VolumeDirectory(str(own)), Identity("web", UUID), frozenset(["imported"]), ())


def overlay(finder: SourceFinder, name: str, backing: Path, size: int = MIB) -> VolumeDisk:
    """Create an overlay in the directory of the domain."""
    path = finder.directory.path_of(f"{name}.qcow2")
    arguments = ["-b", str(backing), "-F", "raw", "-u", path, str(size)]
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *arguments], check=True)
    return disk(path, "qcow2", name)


def test_images_and_files_of_the_host(finder: SourceFinder, tmp_path: Path) -> None:
    claim = {"persistent_volume_claim": {"claim_name": "image"}}
    assert [finder.find(disk(tmp_path / name, "qcow2")).source for name in ("image", "link")] == [claim, claim]
    imported = finder.find(disk(tmp_path / "imported"))
    assert imported.source == {"data_volume": {"name": "imported"}} and len(imported.warnings) == 1
    assert finder.find(disk("/dev/sdz")).source == {"host_disk": {"path": "/dev/sdz", "type": "Disk"}}
    assert finder.find(disk(metrics_file(UUID))).source == {"downward_metrics": {}}
    assert finder.find(disk(metrics_file("other"))).source is not None  # the metrics of another domain are a file
    for unknown in (disk(tmp_path / "x", "qcow2"), VolumeDisk("a", "vda", "virtio")):
        found = finder.find(unknown)
        assert found.source is None and found.reason


def test_overlays_and_empty_disks(finder: SourceFinder, tmp_path: Path) -> None:
    path = finder.directory.path_of("empty.qcow2")
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", path, "3G"], check=True)
    assert finder.find(disk(path, "qcow2", "empty")).source == {"empty_disk": {"capacity": "3Gi"}}
    ephemeral = {"ephemeral": {"persistent_volume_claim": {"claim_name": "image"}}}
    assert finder.find(overlay(finder, "eph", tmp_path / "link")).source == ephemeral
    image = {"image": "quay.io/a:1", "path": "/disk/x", "persistent": True}
    assert finder.find(overlay(finder, "os", tmp_path / "disks" / "c")).source == {"container_disk": image}
    large = finder.find(overlay(finder, "large", tmp_path / "disks" / "c", MIB + 512))
    assert large.source == {"container_disk": {**image, "capacity": str(MIB + 512)}} and len(large.warnings) == 1
    # Another backing file, another name than that of the disk, and a file that is missing.
    for unknown in (
        overlay(finder, "x", tmp_path / "elsewhere"),
        disk(path, "qcow2", "other"),
        disk(finder.directory.path_of("none.qcow2"), "qcow2", "none"),
    ):
        assert finder.find(unknown).source is None
    Path(finder.directory.path_of("bad.qcow2")).write_bytes(b"no image")
    with pytest.raises(VmstoreError):
        finder.find(disk(finder.directory.path_of("bad.qcow2"), "qcow2", "bad"))


def test_media_and_directories_with_texts(finder: SourceFinder, tmp_path: Path) -> None:
    own = Path(finder.directory.path)
    for name, files in (("m", {"a": b"1"}), ("deep", {"labels/a": b"1"})):
        (own / f"{name}.iso").write_bytes(iso_bytes(IsoLabels("cfgdata"), files))
    found = finder.find(disk(own / "m.iso", name="m"))
    assert found.source == {"config_map": {"name": "m"}} and found.texts is not None
    assert found.texts.texts == {"a": b"1"} and "b'1'" not in repr(found)
    (own / "junk.iso").write_bytes(b"x")
    for name in ("deep", "junk", "none"):
        assert finder.find(disk(own / f"{name}.iso", name=name)).source is None
    (own / "filesystems").mkdir()
    TextDirectory(str(own / "filesystems" / "t")).write({"a": b"1"})
    TextDirectory(str(own / "filesystems" / "d")).write({"labels/a": b"1"})
    (own / "filesystems" / "empty").mkdir()
    assert finder.find_directory(VirtioFs("t", str(own / "filesystems" / "t"))).source == {"config_map": {"name": "t"}}
    claim = finder.find_directory(VirtioFs("t", str(tmp_path / "tree")))
    assert claim.source == {"persistent_volume_claim": {"claim_name": "tree"}}
    for tag, path in (
        ("d", own / "filesystems" / "d"),
        ("empty", own / "filesystems" / "empty"),
        ("other", own / "filesystems" / "t"),
        ("image", tmp_path / "image"),
        ("x", tmp_path),
    ):
        assert finder.find_directory(VirtioFs(tag, str(path))).source is None


def test_the_names_of_container_disks(tmp_path: Path) -> None:
    store = DiskStore(str(tmp_path / "cache"))
    assert read_container_disks(store) == {}
    store.create()
    for one in (cached(path="/disk/x"), cached("quay.io/a:1"), cached(path="/disk/y")):
        store.write(one)  # each for another path in the image, with the same disk
    assert {Path(path).name: one.names for path, one in read_container_disks(store).items()} == {
        "c" * 64: ("quay.io/a:1",)
    }

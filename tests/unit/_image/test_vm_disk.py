# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""New VM disks, their size, and copies of their data, verified with qemu-img, qemu-io, blkid and stat."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import (
    Conflict,
    FileAccessFailed,
    InvalidInput,
    NoSpace,
    NotFound,
)
from ansible_collections.granary.vmstore.plugins.module_utils._image.new_image import new_image
from ansible_collections.granary.vmstore.plugins.module_utils._image.vm_disk import DiskRecord
from ansible_collections.granary.vmstore.plugins.module_utils._image.vm_disk_data import (
    copy_disk,
    describe_disk,
    grow_disk,
    shrink_disk,
)
from ansible_collections.granary.vmstore.plugins.module_utils._image.vm_disk_new import (
    clone_image,
    link_image,
    make_disk,
)
from ansible_collections.granary.vmstore.plugins.module_utils._image.vm_disk_snapshots import create_snapshot
from ansible_collections.granary.vmstore.plugins.module_utils._image.vm_removal import remove
from refusal import refused

NAME = "6573ae15e97409f235cae95705b4d830"
MEBIBYTE = 2**20


def qemu(*argv: object) -> str:
    return subprocess.run([*map(str, argv)], check=True, stdout=subprocess.PIPE, text=True).stdout


def info(path: str, image_format: str) -> dict:
    return json.loads(qemu("qemu-img", "info", "--output=json", "-f", image_format, path))


def require(path: str, image_format: str, *ranges: tuple[int, int, int]) -> None:
    """Require the value of each range of bytes (value, start, length), and whole tables."""
    for value, start, length in ranges:
        assert "failed" not in qemu("qemu-io", "-f", image_format, "-c", f"read -P {value} {start} {length}", path)
    if image_format == "qcow2":
        qemu("qemu-img", "check", "-q", "-f", "qcow2", path)


def files(directory: Path) -> set[str]:
    """Return the names of the files in a VM directory, without the lock file."""
    found = {str(path.relative_to(directory)) for path in directory.rglob("*")}
    return found - {".disks.lock"}


@pytest.fixture
def record(tmp_path: Path) -> Callable[..., DiskRecord]:
    """Return a function that makes an image with data in its first MiB, and returns the record of a new disk."""

    def make(image_format: str, disk: str = "disk.0", root: Path = tmp_path) -> DiskRecord:
        image = root / "1" / NAME
        if not image.exists():
            image.parent.mkdir()
            qemu("qemu-img", "create", "-q", "-f", image_format, image, "4M")
            qemu("qemu-io", "-f", image_format, "-c", "write -P 5 0 1M", image)
        return DiskRecord(f"{root}//0/7/{disk}", image_format, f"{root}//1/{NAME}")

    return make


# Copies


@pytest.mark.parametrize("image_format", ["raw", "qcow2"])
def test_a_copy(tmp_path: Path, record: Callable[..., DiskRecord], image_format: str) -> None:
    disk = record(image_format)
    for _time in range(2):  # the second one replaces what the first one made
        clone_image(disk, size=64 * MEBIBYTE)
        assert files(tmp_path / "0" / "7") == {"disk.0"}
        require(disk.path, image_format, (5, 0, MEBIBYTE), (0, MEBIBYTE, 63 * MEBIBYTE))
        assert info(disk.path, image_format)["virtual-size"] == 64 * MEBIBYTE
        assert os.stat(disk.path).st_blocks * 512 < 2 * MEBIBYTE
    assert "backing-filename" not in info(disk.path, image_format)


def test_a_smaller_size_changes_nothing(record: Callable[..., DiskRecord]) -> None:
    disk = record("raw")
    clone_image(disk, size=MEBIBYTE)
    assert os.stat(disk.path).st_size == 4 * MEBIBYTE


def test_a_copy_as_a_layer(tmp_path: Path, record: Callable[..., DiskRecord]) -> None:
    disk = record("qcow2")
    for _time in range(2):
        clone_image(disk, layered=True)
        assert files(tmp_path / "0" / "7") == {"disk.0", "disk.0.snap", "disk.0.snap/0", "disk.0.snap/disk.0.snap"}
        assert os.readlink(disk.path) == "disk.0.snap/0"
        require(disk.path, "qcow2", (5, 0, MEBIBYTE))


def test_an_overlay(tmp_path: Path, record: Callable[..., DiskRecord]) -> None:
    disk = record("qcow2")
    for _time in range(2):
        clone_image(disk, linked=True, size=8 * MEBIBYTE, qcow2_options="cluster_size=128k")
        found = info(disk.path, "qcow2")
        assert found["full-backing-filename"] == f"{tmp_path}/1/{NAME}"
        assert found["backing-filename-format"] == "qcow2"
        assert (found["virtual-size"], found["cluster-size"]) == (8 * MEBIBYTE, 131072)
        require(disk.path, "qcow2", (5, 0, MEBIBYTE), (0, MEBIBYTE, 7 * MEBIBYTE))
        qemu("qemu-io", "-f", "qcow2", "-c", "write -P 6 0 1M", disk.path)
    require(f"{tmp_path}/1/{NAME}", "qcow2", (5, 0, MEBIBYTE))


def test_an_image_with_layers_becomes_one_file(tmp_path: Path, record: Callable[..., DiskRecord]) -> None:
    disk = record("qcow2")
    link_image(disk)
    create_snapshot(disk, 0)
    qemu("qemu-io", "-f", "qcow2", "-c", "write -P 6 1M 1M", disk.path)
    copy = record("qcow2", "disk.1")
    clone_image(copy)
    assert "backing-filename" not in info(copy.path, "qcow2")
    require(copy.path, "qcow2", (5, 0, MEBIBYTE), (6, MEBIBYTE, MEBIBYTE))


def test_files_to_boot_from(tmp_path: Path, record: Callable[..., DiskRecord]) -> None:
    clone_image(record("raw", "kernel"))
    assert files(tmp_path / "0" / "7") == {"kernel"}


def test_an_old_disk_of_another_kind_is_replaced(tmp_path: Path, record: Callable[..., DiskRecord]) -> None:
    disk = record("qcow2")
    clone_image(disk, linked=True)
    create_snapshot(disk, 0)
    clone_image(disk)
    assert files(tmp_path / "0" / "7") == {"disk.0"}
    link_image(disk)
    assert files(tmp_path / "0" / "7") == {"disk.0"}
    clone_image(disk, layered=True)
    assert describe_disk(disk).snapshots == ()
    assert not describe_disk(disk).is_link
    require(f"{tmp_path}/1/{NAME}", "qcow2", (5, 0, MEBIBYTE))


@pytest.mark.parametrize("options", [{"linked": True}, {"layered": True}], ids=["linked", "layered"])
def test_raw_disks_have_no_layers(record: Callable[..., DiskRecord], options: dict[str, bool]) -> None:
    with refused(InvalidInput, option="format", value="raw"):
        clone_image(record("raw"), **options)


@pytest.mark.parametrize("action", [clone_image, link_image])
def test_a_missing_image(tmp_path: Path, action: Callable[..., None]) -> None:
    with pytest.raises((NotFound, FileAccessFailed)):
        action(DiskRecord(f"{tmp_path}/0/7/disk.0", "raw", f"{tmp_path}/1/{NAME}"))
    with refused(InvalidInput, option="image", value=None):
        action(DiskRecord(f"{tmp_path}/0/7/disk.0", "raw"))
    with refused(InvalidInput, option="image", value="/etc/passwd"):
        action(DiskRecord(f"{tmp_path}/0/7/disk.0", "raw", "/etc/passwd"))
    with refused(InvalidInput, option="format", value="vmdk"):
        action(DiskRecord(f"{tmp_path}/0/7/disk.0", "vmdk", f"{tmp_path}/1/{NAME}"))
    assert os.listdir(tmp_path) == []


def test_an_image_that_is_written_to(record: Callable[..., DiskRecord], opened_by_qemu: Callable[..., None]) -> None:
    disk = record("raw")
    opened_by_qemu(Path(disk.image), "-f", "raw")
    with refused(
        Conflict,
        says=f"{disk.image.replace('//', '/')} is open for writing in another program, such as a running virtual "
        "machine, so the copy may hold parts of different states.",
    ):
        clone_image(disk)


@pytest.mark.parametrize("name", ["disk.0", "disk.0.snap/0"])
def test_a_disk_in_use_is_not_replaced(
    record: Callable[..., DiskRecord], opened_by_qemu: Callable[..., None], name: str
) -> None:
    disk = record("qcow2")
    clone_image(disk, layered=name != "disk.0")
    opened_by_qemu(Path(os.path.dirname(disk.path)) / name, "-f", "qcow2")
    for action in (clone_image, link_image, lambda disk: remove(disk.path)):
        with refused(Conflict, names=[f"/0/7/{name}"]):
            action(disk)


@pytest.mark.parametrize("image_format", ["raw", "qcow2"])
def test_lack_of_space_is_told_before_a_byte_is_copied(
    tmpfs: Path, tmp_path: Path, record: Callable[..., DiskRecord], image_format: str
) -> None:
    image = tmp_path / "1" / NAME
    image.parent.mkdir()
    qemu("qemu-img", "create", "-q", "-f", image_format, image, "80M")
    qemu("qemu-io", "-f", image_format, "-c", "write -P 5 0 80M", image)
    (tmpfs / "x").mkdir()
    disk = DiskRecord(f"{tmpfs}/x/0/7/disk.0", image_format, str(image))
    with refused(NoSpace, names=["Nothing was changed"]):
        clone_image(disk)
    assert files(tmpfs / "x" / "0" / "7") == set()


# Links


def test_a_link_to_a_raw_image(tmp_path: Path, record: Callable[..., DiskRecord]) -> None:
    disk = record("raw")
    for _time in range(2):
        link_image(disk)
        assert os.readlink(disk.path) == f"{tmp_path}/1/{NAME}"
    assert os.listdir(tmp_path / "1") == [NAME]
    facts = describe_disk(disk)
    assert (facts.is_link, facts.size, facts.chain) == (True, 4 * MEBIBYTE, (f"{tmp_path}/1/{NAME}",))


def test_a_link_to_a_qcow2_image(tmp_path: Path, record: Callable[..., DiskRecord]) -> None:
    disk = record("qcow2")
    image = tmp_path / "1" / NAME
    for _time in range(2):
        link_image(disk)
        assert os.readlink(disk.path) == f"{image}.snap/0"
        assert os.readlink(f"{image}.snap/0") == str(image)
        assert os.readlink(f"{image}.snap/{NAME}.snap") == "."
    assert remove(disk.path)
    require(str(image), "qcow2", (5, 0, MEBIBYTE))


def test_an_image_with_whole_copies_is_not_linked(tmp_path: Path, record: Callable[..., DiskRecord]) -> None:
    disk = record("qcow2")
    os.mkdir(f"{tmp_path}/1/{NAME}.snap")
    Path(f"{tmp_path}/1/{NAME}.snap/0").write_bytes(Path(disk.image).read_bytes())
    with refused(
        Conflict,
        says=f"{tmp_path}/1/{NAME} can't be linked, because its snapshots are whole copies: delete them first.",
    ):
        link_image(disk)


# Empty disks


@pytest.mark.parametrize("image_format", ["raw", "qcow2"])
@pytest.mark.parametrize("fs", [None, "ext4", "swap"])
def test_an_empty_disk(tmp_path: Path, image_format: str, fs: str | None) -> None:
    (tmp_path / "0").mkdir()
    path = f"{tmp_path}/0/7/disk.3"
    for _time in range(2):
        make_disk(path, format=image_format, size_mb=16, fs=fs, supported=["ext4"])
        assert files(tmp_path / "0" / "7") == {"disk.3"}
        assert info(path, image_format)["virtual-size"] == 16 * MEBIBYTE
        assert os.stat(path).st_blocks * 512 < 8 * MEBIBYTE
    qemu("qemu-img", "convert", "-f", image_format, "-O", "raw", path, tmp_path / "raw")
    found = subprocess.run(
        ["blkid", "-p", "-o", "value", "-s", "TYPE", tmp_path / "raw"], capture_output=True, text=True, check=False
    )
    assert found.stdout.strip() == (fs or "")


@pytest.mark.parametrize(
    ("options", "option"),
    [({"format": "vmdk"}, "format"), ({"size_mb": 0}, "size"), ({"fs": "ext4;reboot"}, "fs")],
    ids=["format", "size", "fs"],
)
def test_an_invalid_empty_disk(tmp_path: Path, options: dict, option: str) -> None:
    with refused(InvalidInput, option=option, value=next(iter(options.values()))):
        make_disk(f"{tmp_path}/0/7/disk.3", **{"format": "raw", "size_mb": 1, "supported": ["ext4"], **options})
    assert os.listdir(tmp_path) == []


# Sizes


@pytest.mark.parametrize("options", [{}, {"layered": True}, {"linked": True}], ids=["file", "layered", "linked"])
@pytest.mark.parametrize("image_format", ["raw", "qcow2"])
def test_grow(record: Callable[..., DiskRecord], image_format: str, options: dict[str, bool]) -> None:
    disk = record(image_format)
    clone_image(disk, **(options if image_format == "qcow2" else {}))
    create_snapshot(disk, 0)
    assert grow_disk(disk, 64 * MEBIBYTE)
    assert not grow_disk(disk, 64 * MEBIBYTE)
    assert not grow_disk(disk, MEBIBYTE)
    require(disk.path, image_format, (5, 0, MEBIBYTE), (0, MEBIBYTE, 63 * MEBIBYTE))
    assert info(f"{disk.path}.snap/0", image_format)["virtual-size"] == 4 * MEBIBYTE
    assert os.stat(disk.path).st_blocks * 512 < 2 * MEBIBYTE


@pytest.mark.parametrize("image_format", ["raw", "qcow2"])
def test_a_link_grows_with_its_image(tmp_path: Path, record: Callable[..., DiskRecord], image_format: str) -> None:
    disk = record(image_format)
    link_image(disk)
    Path(f"{tmp_path}/1/{NAME}.md5sum").touch()
    assert grow_disk(disk, 8 * MEBIBYTE)
    assert info(f"{tmp_path}/1/{NAME}", image_format)["virtual-size"] == 8 * MEBIBYTE
    assert not os.path.exists(f"{tmp_path}/1/{NAME}.md5sum")
    assert os.path.islink(disk.path)


@pytest.mark.parametrize("image_format", ["raw", "qcow2"])
def test_shrink(record: Callable[..., DiskRecord], image_format: str) -> None:
    disk = record(image_format)
    clone_image(disk)
    assert shrink_disk(disk, MEBIBYTE)
    assert not shrink_disk(disk, MEBIBYTE)
    assert info(disk.path, image_format)["virtual-size"] == MEBIBYTE
    require(disk.path, image_format, (5, 0, MEBIBYTE))
    with refused(Conflict, names=[disk.path.replace("//", "/"), MEBIBYTE // 2]):
        shrink_disk(disk, MEBIBYTE // 2)
    require(disk.path, image_format, (5, 0, MEBIBYTE))


def test_what_is_not_cut(tmp_path: Path, record: Callable[..., DiskRecord]) -> None:
    disk = record("raw")
    clone_image(disk)
    path = f"{tmp_path}/0/7/disk.0"
    with refused(Conflict, says=f"{path} can't shrink to 4096 bytes, because the part behind them holds data."):
        shrink_disk(disk, 4096)
    create_snapshot(disk, 0)
    with refused(Conflict, says=f"{path} can't shrink while it has snapshots or is based on an image."):
        shrink_disk(disk, 2 * MEBIBYTE)
    linked = record("raw", "disk.1")
    with refused(NotFound, says=f"The disk {tmp_path}/0/7/disk.1 does not exist."):
        shrink_disk(linked, MEBIBYTE)


def test_an_overlay_on_an_image_is_not_cut(record: Callable[..., DiskRecord]) -> None:
    disk = record("qcow2")
    clone_image(disk, linked=True)
    with refused(Conflict, names=[disk.path.replace("//", "/")]):
        shrink_disk(disk, 2 * MEBIBYTE)


@pytest.mark.parametrize("action", [grow_disk, shrink_disk])
def test_a_disk_in_use_keeps_its_size(
    record: Callable[..., DiskRecord], opened_by_qemu: Callable[..., None], action: Callable[..., bool]
) -> None:
    disk = record("raw")
    clone_image(disk)
    opened_by_qemu(Path(disk.path), "-f", "raw")
    with refused(Conflict, names=["/0/7/disk.0"]):
        action(disk, (8 if action is grow_disk else 2) * MEBIBYTE)
    assert describe_disk(disk).is_used


# Copies of the data of a disk


@pytest.mark.parametrize("image_format", ["raw", "qcow2"])
def test_copy_the_disk_or_a_snapshot(tmp_path: Path, record: Callable[..., DiskRecord], image_format: str) -> None:
    disk = record(image_format)
    clone_image(disk, linked=image_format == "qcow2")
    create_snapshot(disk, 0)
    qemu("qemu-io", "-f", image_format, "-c", "write -P 6 0 1M", disk.path)
    for snapshot, value in ((None, 6), (0, 5)):
        with new_image(f"{tmp_path}/1") as part:
            copy_disk(disk, part, snapshot=snapshot)
            image = part.commit()
        require(image, image_format, (value, 0, MEBIBYTE), (0, MEBIBYTE, 3 * MEBIBYTE))
        assert "backing-filename" not in info(image, image_format)
    with refused(NotFound, names=[7]), new_image(f"{tmp_path}/1") as part:
        copy_disk(disk, part, snapshot=7)


def test_copy_a_disk_in_use(
    tmp_path: Path, record: Callable[..., DiskRecord], opened_by_qemu: Callable[..., None]
) -> None:
    disk = record("raw")
    clone_image(disk)
    opened_by_qemu(Path(disk.path), "-f", "raw")
    with refused(Conflict, names=["/0/7/disk.0"]), new_image(f"{tmp_path}/1") as part:
        copy_disk(disk, part)
    with new_image(f"{tmp_path}/1") as part:
        copy_disk(disk, part, is_paused=True)
        require(part.commit(), "raw", (5, 0, MEBIBYTE))


def test_looking_at_a_disk_writes_nothing(tmp_path: Path, record: Callable[..., DiskRecord]) -> None:
    disk = record("raw")
    clone_image(disk)
    os.unlink(tmp_path / "0" / "7" / ".disks.lock")
    describe_disk(disk)
    assert os.listdir(tmp_path / "0" / "7") == ["disk.0"]

# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""Images that grow in place, verified with qemu-img and qemu-io."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import Conflict, NoSpace, VmstoreError
from ansible_collections.granary.vmstore.plugins.module_utils._image.resize import grow_image
from refusal import refused

MIB = 1 << 20
NAME = "0" * 32


def qemu(*argv: object) -> str:
    return subprocess.run(list(map(str, argv)), check=True, stdout=subprocess.PIPE, text=True).stdout


def image_in(directory: Path, image_format: str) -> Path:
    path = directory / NAME
    qemu("qemu-img", "create", "-q", "-f", image_format, path, "4M")
    qemu("qemu-io", "-f", image_format, "-c", "write -P 7 0 4M", path)
    return path


def grow(image: Path, image_format: str, size: int, **options: object) -> None:
    grow_image(str(image), image_format, size, timeout=60, **options)


@pytest.mark.parametrize("image_format", ["raw", "qcow2"])
@pytest.mark.parametrize("sparse", [True, False])
def test_what_it_holds_stays(tmp_path: Path, image_format: str, sparse: bool) -> None:
    image = image_in(tmp_path, image_format)
    (tmp_path / f"{NAME}.md5sum").write_text("of the old data")
    for _time in range(2):
        grow(image, image_format, 9 * MIB, sparse=sparse)
        assert f'"virtual-size": {9 * MIB}' in qemu("qemu-img", "info", "-f", image_format, "--output=json", image)
        assert "failed" not in qemu(
            "qemu-io", "-f", image_format, "-c", "read -P 7 0 4M", "-c", "read -P 0 4M 5M", image
        )
        assert (image.stat().st_blocks * 512 >= 9 * MIB) != sparse
        assert os.listdir(tmp_path) == [NAME]
    grow(image, image_format, 5 * MIB)
    assert f'"virtual-size": {9 * MIB}' in qemu("qemu-img", "info", "-f", image_format, "--output=json", image)


@pytest.fixture
def ext4(tmp_path: Path) -> Iterator[Path]:
    """Return a directory of a file system with 64 MiB, where a failed allocation keeps the allocated part."""
    disk, point = tmp_path / "ext4.disk", tmp_path / "ext4"
    point.mkdir()
    subprocess.run(["truncate", "-s", "64M", str(disk)], check=True)
    subprocess.run(["mkfs.ext4", "-q", str(disk)], check=True)
    subprocess.run(["mount", "-o", "loop", str(disk), str(point)], check=True)
    yield point
    subprocess.run(["umount", str(point)], check=True)


def test_a_full_file_system_leaves_the_old_size(ext4: Path) -> None:
    image = image_in(ext4, "raw")
    with pytest.raises(NoSpace):
        grow(image, "raw", 999 * MIB, sparse=False)
    assert image.stat().st_size == 4 * MIB
    assert image.stat().st_blocks * 512 <= 5 * MIB


@pytest.mark.parametrize("image_format", ["raw", "qcow2"])
def test_what_a_program_uses_stays_as_it_is(
    tmp_path: Path, opened_by_qemu: Callable[..., None], image_format: str
) -> None:
    image = image_in(tmp_path, image_format)
    opened_by_qemu(image, "-r", "-f", image_format)
    with refused(
        Conflict,
        says=f"{image} can't grow while a program such as a running virtual machine uses it: shut that down first.",
    ):
        grow(image, image_format, 9 * MIB)


@pytest.mark.parametrize("image_format", ["raw", "qcow2"])
def test_what_has_snapshots_stays_as_it_is(tmp_path: Path, image_format: str) -> None:
    """A chain would get parts of different sizes, and a revert would shrink the image without a message."""
    image = image_in(tmp_path, image_format)
    (tmp_path / f"{NAME}.snap").mkdir()
    if image_format == "raw":
        (tmp_path / f"{NAME}.snap" / "0").write_bytes(image.read_bytes())
    else:
        image.rename(tmp_path / f"{NAME}.snap" / "0")
        qemu(
            "qemu-img",
            "create",
            "-q",
            "-f",
            "qcow2",
            "-b",
            tmp_path / f"{NAME}.snap" / "0",
            "-F",
            "qcow2",
            tmp_path / f"{NAME}.snap" / "1",
        )
        image.symlink_to(f"{NAME}.snap/1")
    with refused(Conflict, says=f"{image} can't grow while it has snapshots: delete them, or flatten one."):
        grow(image, image_format, 9 * MIB)


def test_what_is_no_qcow2_image_stays_as_it_is(tmp_path: Path) -> None:
    image = tmp_path / NAME
    image.write_bytes(b"a guest's bytes" * 1000)
    with pytest.raises(VmstoreError):
        grow(image, "qcow2", 9 * MIB)
    assert image.read_bytes() == b"a guest's bytes" * 1000


def test_a_header_that_names_another_file_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(bytes(MIB))
    image = tmp_path / NAME
    qemu("qemu-img", "create", "-q", "-f", "qcow2", "-b", tmp_path / "secret", "-F", "raw", image)
    before = image.read_bytes()
    with pytest.raises(VmstoreError):
        grow(image, "qcow2", 9 * MIB)
    assert image.read_bytes() == before

# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""Clones and exports of an image whose data is in several qcow2 files, each with the previous one as its
backing file.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import Conflict, StaleState
from ansible_collections.granary.vmstore.plugins.module_utils._driver.datastore import cloning
from ansible_collections.granary.vmstore.plugins.module_utils._driver.datastore.base import CopyOptions, Settings
from ansible_collections.granary.vmstore.plugins.module_utils._driver.datastore.fs import FsDriver
from ansible_collections.granary.vmstore.plugins.module_utils._image.image_chain import ImageChain, OpenChain
from ansible_collections.granary.vmstore.plugins.module_utils._model.datastore import Datastore
from refusal import refused

NAME = "a" * 32


def qemu(program: str, *argv: object) -> str:
    return subprocess.run([program, *map(str, argv)], check=True, stdout=subprocess.PIPE, text=True).stdout


def link_to_newest(image: Path) -> None:
    """Make ``image`` a link to the second of two overlays on ``<image>.snap/0``."""
    directory = Path(f"{image}.snap")
    directory.mkdir(parents=True)
    (directory / directory.name).symlink_to(".")
    for number in range(3):
        base = ["-u", "-F", "qcow2", "-b", f"{directory.name}/{number - 1}"] if number else []
        qemu("qemu-img", "create", "-q", "-f", "qcow2", *base, directory / str(number), "4M")
        qemu("qemu-io", "-f", "qcow2", "-c", f"write -q -P {number + 1} {number}M 1M", directory / str(number))
    image.symlink_to(f"{directory.name}/2")


def on_the_image(image: Path) -> None:
    """Create the overlays on the image itself."""
    link_to_newest(image)
    image.unlink()
    Path(f"{image}.snap/0").rename(image)
    Path(f"{image}.snap/0").symlink_to(image)


@pytest.fixture
def driver(tmp_path: Path) -> FsDriver:
    (tmp_path / "100").mkdir()
    return FsDriver(
        Datastore(100, "x", "image", "fs", "shared", str(tmp_path / "100")),
        settings=Settings(qcow2_options="cluster_size=128k"),
    )


@pytest.fixture(params=[link_to_newest, on_the_image])
def image(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / "100" / NAME
    request.param(path)
    return path


def read_content(path: str, image_format: str) -> list[int]:
    """Return the first byte of each MiB."""
    raw = f"{path}.content"
    qemu("qemu-img", "convert", "-f", image_format, "-O", "raw", path, raw)
    data = Path(raw).read_bytes()
    os.unlink(raw)
    return [data[start] for start in range(0, len(data), 2**20)]


@pytest.mark.parametrize("image_format", ["qcow2", None])
@pytest.mark.parametrize("wanted", [None, "raw", "qcow2"])
def test_a_clone_has_all_the_data(driver: FsDriver, image: Path, image_format: str | None, wanted: str | None) -> None:
    before = sorted(os.listdir(image.parent))
    cloned = driver.clone(str(image), image_format, CopyOptions("datablock", driver_format=wanted))
    assert (cloned.format, cloned.size_mb) == (wanted or "qcow2", 4)
    assert read_content(cloned.source, cloned.format) == [1, 2, 3, 0]
    told = json.loads(qemu("qemu-img", "info", "--output=json", cloned.source))
    assert "backing-filename" not in told
    if cloned.format == "qcow2":
        assert told["cluster-size"] == 131072
    assert sorted(os.listdir(image.parent)) == sorted([*before, os.path.basename(cloned.source)])


def test_a_revert_while_it_is_cloned(driver: FsDriver, image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The clone has the content of the files that were opened, whatever has their names when qemu-img runs."""

    def late(*arguments: object, **options: object) -> None:
        driver.snap_revert(str(image), "qcow2", 0)
        convert(*arguments, **options)

    convert = cloning.convert
    monkeypatch.setattr(cloning, "convert", late)
    assert read_content(driver.clone(str(image), "qcow2", CopyOptions("datablock")).source, "qcow2") == [1, 2, 3, 0]
    monkeypatch.undo()
    assert read_content(driver.clone(str(image), "qcow2", CopyOptions("datablock")).source, "qcow2") == [1, 0, 0, 0]


def test_a_revert_before_all_files_are_open(driver: FsDriver, image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest file gets the name of the newest one, and its overlay is no part of either chain."""

    @contextlib.contextmanager
    def late(content: ImageChain) -> Iterator[OpenChain]:
        driver.snap_revert(str(image), "qcow2", 0)
        with opened(content) as found:
            yield found

    opened = ImageChain.opened
    monkeypatch.setattr(ImageChain, "opened", late)
    with refused(StaleState, says=f"The snapshots of the image {image} changed while it was cloned; try again."):
        driver.clone(str(image), "qcow2", CopyOptions("datablock"))
    assert [name for name in os.listdir(image.parent) if name not in (NAME, f"{NAME}.snap")] == []


def test_a_clone_of_an_image_in_the_datastore_beside_it(driver: FsDriver, tmp_path: Path) -> None:
    link_to_newest(tmp_path / "7" / NAME)
    cloned = driver.clone(str(tmp_path / "7" / NAME), "qcow2", CopyOptions("datablock"))
    assert os.path.dirname(cloned.source) == str(tmp_path / "100")
    assert read_content(cloned.source, "qcow2") == [1, 2, 3, 0]


@pytest.mark.parametrize("image_format", ["qcow2", None])
def test_a_chain_is_not_exported(driver: FsDriver, image: Path, image_format: str | None) -> None:
    """The front-end would fetch only one file of the chain, with a checksum that is correct for this file."""
    with refused(
        Conflict,
        says=f"The image {image} can't be exported as one file, because its data is in {image}.snap/2, "
        f"{image}.snap/1, {image}*; flatten its snapshots, or export a clone of it.",
    ):
        driver.export(str(image), image_format)


def test_after_flattening_it_is_exported(driver: FsDriver, image: Path) -> None:
    driver.snap_flatten(str(image), "qcow2", 1)
    found = driver.export(str(image), "qcow2")
    assert (found.source, found.format, found.md5) == (str(image), "qcow2", hashlib.md5(image.read_bytes()).hexdigest())


def test_a_link_to_a_file_that_stands_alone_is_exported(driver: FsDriver, tmp_path: Path) -> None:
    image = tmp_path / "100" / NAME
    link_to_newest(image)
    image.unlink()
    image.symlink_to(f"{NAME}.snap/0")
    assert driver.export(str(image), "qcow2").md5 == hashlib.md5(image.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    "name", ["{directory}/other", "../x", "nbd://localhost/x", "{image}.snap-evil/0", "{image}.snap/../other"]
)
def test_a_chain_that_leaves_the_image(driver: FsDriver, tmp_path: Path, name: str) -> None:
    image = tmp_path / "100" / NAME
    link_to_newest(image)
    for path in (image.parent / "other", tmp_path / "x"):
        qemu("qemu-img", "create", "-q", "-f", "qcow2", path, "4M")
    backing = name.format(directory=image.parent, image=image)
    qemu("qemu-img", "rebase", "-u", "-f", "qcow2", "-F", "qcow2", "-b", backing, f"{image}.snap/1")
    before = sorted(os.listdir(image.parent))
    for image_format in ("qcow2", None):
        for act in (
            lambda given: driver.clone(str(image), given, CopyOptions("datablock")),
            lambda given: driver.export(str(image), given),
        ):
            with refused(Conflict, says=f"{image}.snap/1 is not used: it refers to '*', which is not in {image}.snap."):
                act(image_format)
    assert sorted(os.listdir(image.parent)) == before

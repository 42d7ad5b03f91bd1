# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""One suite over every datastore driver: each action works, or is unsupported according to the capability record.

The tests of a driver follow from its capability record alone, so a new driver in the registry needs no further tests.
Other tools verify the results.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import (
    InvalidInput,
    NotFound,
    PathNotAllowed,
    UnsupportedAction,
    VmstoreError,
)
from ansible_collections.granary.vmstore.plugins.module_utils._driver.datastore.base import (
    CopyOptions,
    DatastoreDriver,
)
from ansible_collections.granary.vmstore.plugins.module_utils._driver.datastore.directory import SystemDriver
from ansible_collections.granary.vmstore.plugins.module_utils._driver.datastore.registry import (
    DATASTORE_DRIVERS,
    class_for,
    driver_class,
)
from ansible_collections.granary.vmstore.plugins.module_utils._driver.info import CONTRACT_ACTIONS, OPTIONAL_ACTIONS
from ansible_collections.granary.vmstore.plugins.module_utils._model.datastore import Datastore
from refusal import refused

MIB = 2**20

#: Content of 4 MiB, of which 1 MiB is data.
RAW = random.Random(1).randbytes(MIB) + bytes(3 * MIB)

#: Optional actions, by the field of the capability record. Drivers that register images have all other actions, and
#: every driver has monitor.
OPTIONAL = {
    "clone": "clone",
    "content": "content",
    "export": "export",
    "mkfs": "mkfs",
    **dict.fromkeys(("snap_delete", "snap_flatten", "snap_revert"), "snapshot"),
}

NAME = "0123456789abcdef0123456789abcdef"


def shell(*argv: object) -> str:
    return subprocess.run([str(word) for word in argv], capture_output=True, text=True, check=True).stdout


def virtual_size(path: Path, image_format: str) -> int:
    return json.loads(shell("qemu-img", "info", "--output=json", "-f", image_format, path))["virtual-size"]


class Place:
    """A datastore of a driver, and sources of images. ``data`` is the real directory of its files."""

    def __init__(self, kind: type[DatastoreDriver], root: Path, bridges: Any) -> None:
        self.info = kind.info
        self.kind = kind
        self.files = root / "files"
        self.base = bridges.store if bridges else root / "datastores" / "100"
        self.data = bridges.data if bridges else self.base
        self.hosts = ("h1", "h2") if bridges else ()
        self.files.mkdir()
        self.data.mkdir(parents=True, exist_ok=True)
        self.of_directories = self.info.image_types == {"filesystem"}
        self.type = "os" if "os" in self.info.image_types else min(self.info.image_types, default="os")

    @property
    def driver(self) -> DatastoreDriver:
        own = self.kind.info
        kind = "image" if "image" in own.datastore_types else min(own.datastore_types)
        name = None if self.kind is SystemDriver else own.name
        datastore = Datastore(100, "x", kind, name, own.tm_drivers[0], str(self.base), bridge_list=self.hosts)
        assert class_for(datastore) is self.kind
        return self.kind(datastore)

    def supports(self, action: str) -> bool:
        if action in OPTIONAL:
            return OPTIONAL[action] in self.info.actions
        if action == "increment_flatten":
            return False
        return action == "monitor" or bool(self.info.image_types)

    def unsupported(self, action: str) -> str:
        where = " where the data is on the hosts of a bridge_list" if self.hosts else ""
        return f"{action} is not supported by the {self.info.name} driver{where}."

    def source(self, name: str = "a source") -> str:
        """Return the path of a file or directory that can become an image."""
        path = self.files / name
        if self.of_directories:
            path.mkdir(exist_ok=True)
            (path / "data").write_bytes(RAW[:MIB])
        else:
            path.write_bytes(RAW[:MIB])
            os.truncate(path, len(RAW))
        return str(path)

    def options(self, **options: Any) -> CopyOptions:
        return CopyOptions(self.type, **options)

    def image(self) -> str:
        """Return the source of an image. If the driver registers no images, return a possible source."""
        return self.driver.cp(self.source(), self.options()).source if self.supports("cp") else f"{self.base}/{NAME}"

    def at(self, source: str) -> Path:
        """Return the path of an image that the driver stores."""
        assert os.path.dirname(source) == str(self.base)
        return self.data / os.path.basename(source)

    def stored(self) -> list[str]:
        """Return all files of the datastore, temporary ones too."""
        return sorted(str(path.relative_to(self.data)) for path in self.data.rglob("*"))

    def snapshots(self, source: str, image_format: str) -> Path:
        """Return the directory of three snapshots of an image, 0, 1 and 2, each with different data."""
        (directory := Path(f"{self.at(source)}.snap")).mkdir()
        if image_format == "raw":
            for number in range(3):
                (directory / str(number)).write_bytes(bytes([65 + number]) * 4 * MIB)
        else:
            (directory / directory.name).symlink_to(".")
            self.at(source).rename(directory / "0")
            for number in range(1, 4):
                overlay = directory / str(number)
                shell(
                    "qemu-img",
                    "create",
                    "-q",
                    "-f",
                    "qcow2",
                    "-u",
                    "-b",
                    f"{directory.name}/{number - 1}",
                    "-F",
                    "qcow2",
                    overlay,
                    "4M",
                )
                shell("qemu-io", "-f", "qcow2", "-c", f"write -P {65 + number} {number}M 64k", overlay)
            self.at(source).symlink_to(f"{directory.name}/3")
        return directory

    def digest(self, path: Path, image_format: str) -> str:
        """Return the digest of the guest's view of an image."""
        raw = self.files / "digest"
        shell("qemu-img", "convert", "-f", image_format, "-O", "raw", path, raw)
        return shell("sha256sum", raw).split()[0]

    def check_sound(self) -> None:
        """Require that no file of the datastore is damaged or temporary."""
        for path in self.data.rglob("*"):
            assert not path.name.startswith("."), path
            if path.is_file() and path.read_bytes()[:4] == b"QFI\xfb":
                shell("qemu-img", "check", "-q", "-f", "qcow2", path)


PLACES = {
    **{name: driver_class(name) for name in DATASTORE_DRIVERS},
    "system": SystemDriver,
    "fs-bridged": driver_class("fs", is_bridged=True),
}


@pytest.fixture(params=PLACES)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    bridges = request.getfixturevalue("bridges") if request.param.endswith("-bridged") else None
    return Place(PLACES[request.param], tmp_path, bridges)


CALLS: dict[str, Callable[[Place, str], object]] = {
    "clone": lambda place, image: place.driver.clone(image, "raw", place.options()),
    "cp": lambda place, image: place.driver.cp(place.source(), place.options()),
    "content": lambda place, image: place.driver.content(image, "raw"),
    "export": lambda place, image: place.driver.export(image, "raw"),
    "increment_flatten": lambda place, image: place.driver.require("increment_flatten"),
    "mkfs": lambda place, image: place.driver.mkfs(4, "raw", None),
    "monitor": lambda place, image: place.driver.monitor(),
    "rm": lambda place, image: place.driver.rm(image),
    "snap_delete": lambda place, image: place.driver.snap_delete(image, "raw", 0),
    "snap_flatten": lambda place, image: place.driver.snap_flatten(image, "raw", 0),
    "snap_revert": lambda place, image: place.driver.snap_revert(image, "raw", 0),
    "stat": lambda place, image: place.driver.stat(place.source()),
}


def test_the_actions_are_those_of_the_contract() -> None:
    assert set(CALLS) == {*CONTRACT_ACTIONS, "content"}
    assert set(OPTIONAL.values()) <= set(OPTIONAL_ACTIONS)
    assert list(OPTIONAL_ACTIONS) == sorted(OPTIONAL_ACTIONS)
    for kind in PLACES.values():
        assert kind.info.actions <= set(OPTIONAL_ACTIONS)


@pytest.mark.parametrize("action", CALLS)
def test_a_driver_does_what_its_record_says_and_nothing_else(place: Place, action: str) -> None:
    image = place.image()
    if place.supports("snap_delete") and action.startswith("snap_"):
        place.snapshots(image, "raw")
    before = place.stored()
    if place.supports(action):
        CALLS[action](place, image)
        place.check_sound()
        return
    with refused(UnsupportedAction, says=place.unsupported(action)):
        CALLS[action](place, image)
    assert place.stored() == before


def test_what_the_record_leaves_out_is_refused_before_it_is_tried(place: Place) -> None:
    for action in OPTIONAL_ACTIONS:
        if action in place.info.actions:
            place.driver.require(action)
        else:
            with refused(UnsupportedAction, says=place.unsupported(action)):
                place.driver.require(action)


def having(*actions: str) -> Any:
    """Limit a test to the drivers with all these actions; another test covers the other drivers."""

    def decorate(test: Callable[..., None]) -> Any:
        names = [name for name in PLACES if all(Place.supports(_Recorded(PLACES[name]), action) for action in actions)]
        return pytest.mark.parametrize("place", names, indirect=True)(test)

    return decorate


class _Recorded:
    """The part of a place that :meth:`Place.supports` needs."""

    def __init__(self, kind: type[DatastoreDriver]) -> None:
        self.info = kind.info


@having("cp", "stat")
def test_cp_registers_what_is_there(place: Place) -> None:
    path = place.source("with blank, 'quote' and $(touch x)")
    copied = [place.driver.cp(path, place.options()) for _time in range(2)]
    used = int(shell("du", "-s", "-B1", path).split()[0]) if place.of_directories else os.path.getsize(path)
    assert {one.size_mb for one in copied} == {place.driver.stat(path)} == {-(-used // MIB)}
    if not place.info.stores_data:
        assert {one.source for one in copied} == {path}
        assert place.stored() == []
        return
    assert len(set(place.stored())) == 2
    for one in copied:
        stored = place.at(one.source)
        assert len(stored.name) == 32 and set(stored.name) <= set("0123456789abcdef")
        assert shell("stat", "--format=%F %a", stored) == "regular file 640\n"
        assert int(shell("du", "-B1", stored).split()[0]) < 2 * MIB
        shell("qemu-img", "compare", "-f", one.format, "-F", "raw", stored, path)


@having("cp")
def test_cp_registers_the_types_of_the_record(place: Place) -> None:
    for image_type in sorted(place.info.image_types):
        place.driver.cp(place.source(), CopyOptions(image_type))
    before = place.stored()
    for image_type in ("os", "cdrom", "datablock", "kernel", "ramdisk", "context", "backup", "filesystem"):
        if image_type not in place.info.image_types:
            with refused(UnsupportedAction, names=[f"'{image_type}'", place.info.name]):
                place.driver.cp(place.source(), CopyOptions(image_type))
    assert place.stored() == before


@having("mkfs")
@pytest.mark.parametrize("image_format", ["raw", "qcow2"])
def test_an_image_grows(place: Place, image_format: str) -> None:
    image = place.driver.mkfs(4, image_format, None)
    for _time in range(2):
        place.driver.resize(image, image_format, 9)
        assert f'"virtual-size": {9 * MIB}' in shell(
            "qemu-img", "info", "-f", image_format, "--output=json", str(place.at(image))
        )
    with pytest.raises(PathNotAllowed):
        place.driver.resize(f"{place.base.parent}/7/{NAME}", image_format, 9)


@having("cp")
def test_restricted_paths_are_refused(place: Place) -> None:
    (place.files / "link").symlink_to("/etc")
    (place.files / "file").symlink_to("/etc/passwd")
    paths = ["/", "/etc", str(place.files / "link"), str(place.base.parent)]
    if not place.of_directories:
        paths += [
            "/etc/passwd",
            "/dev/null",
            str(place.files / "file"),
            f"{place.base}/{NAME}",
            f"{place.base.parent}/7/{NAME}",
        ]
    for path in paths:
        with pytest.raises(PathNotAllowed):
            place.driver.cp(path, place.options())
        # stat reads the data at its place of storage.
        if place.info.stores_data:
            with pytest.raises(PathNotAllowed):
                place.driver.stat(path)
    assert place.stored() == []


@having("cp")
def test_a_failing_cp_leaves_nothing(place: Place) -> None:
    for path in ("", "relative", "/tmp/../etc", "/tmp/a\nb", f"{place.files}/missing", "ftp://127.0.0.1/x"):
        with pytest.raises(VmstoreError) as caught:
            place.driver.cp(path, place.options())
        assert "\n" not in str(caught.value)
    if place.info.stores_data:
        with refused(InvalidInput, option="sha256", value="0" * 64):
            place.driver.cp(place.source(), place.options(checksums={"sha256": "0" * 64}))
    assert place.stored() == []


@having("rm")
def test_rm_can_be_repeated_and_removes_only_that(place: Place) -> None:
    source, other = place.image(), place.image()
    before = place.stored()
    if place.info.stores_data:
        Path(f"{place.at(source)}.snap").mkdir()
        (Path(f"{place.at(source)}.snap") / "0").write_bytes(b"x")
    for _time in range(2):
        place.driver.rm(source)
        assert place.stored() == [name for name in before if name != os.path.basename(source)]
    assert os.path.exists(place.source())
    if place.info.stores_data:
        assert place.at(other).read_bytes() == RAW
        for wrong in ("/etc/passwd", str(place.base), f"{place.base}/../100/{NAME}", f"{place.base}/x"):
            with pytest.raises(VmstoreError):
                place.driver.rm(wrong)
        assert place.stored() == [os.path.basename(other)]
    else:
        assert os.path.exists(source)


@having("rm")
def test_a_driver_that_stores_data_knows_what_it_has(place: Place) -> None:
    source = place.image()
    if not place.info.stores_data:
        with refused(UnsupportedAction, says=place.unsupported("stored")):
            place.driver.stored()
        return
    assert place.driver.stored() == {source}
    place.driver.rm(source)
    assert place.driver.stored() == frozenset()


@having("monitor")
def test_monitor(place: Place) -> None:
    found = place.driver.monitor()
    if not place.info.stores_data:
        assert (found.used_mb, found.free_mb, found.total_mb) == (0, 0, 0)
        return
    total, used, free = map(int, shell("df", "-B1", "--output=size,used,avail", place.data).split()[-3:])
    assert found.total_mb == total // MIB
    assert abs(found.used_mb - used // MIB) <= 512  # other processes write too
    assert abs(found.free_mb - free // MIB) <= 512


@having("mkfs")
def test_mkfs(place: Place) -> None:
    for image_format, fs in (("raw", None), ("raw", "ext4"), ("raw", "swap"), ("qcow2", None), ("qcow2", "ext4")):
        path = place.at(place.driver.mkfs(16, image_format, fs))
        assert virtual_size(path, image_format) == 16 * MIB
        assert shell("stat", "--format=%F %a", path) == "regular file 640\n"
        if fs:
            shell("qemu-img", "convert", "-f", image_format, "-O", "raw", path, place.files / "raw")
            assert shell("blkid", "-p", "-o", "value", "-s", "TYPE", place.files / "raw").strip() == fs
    place.check_sound()
    before = place.stored()
    for size, image_format, fs in (
        (16, "vmdk", None),
        (0, "raw", None),
        (16, "raw", "ext4;touch x"),
        (1, "raw", "xfs"),
    ):
        with pytest.raises(VmstoreError):
            place.driver.mkfs(size, image_format, fs)
        assert place.stored() == before


@having("cp", "clone")
def test_clone(place: Place) -> None:
    source = place.image()
    for wanted in (None, "raw", "qcow2"):
        cloned = place.driver.clone(source, "raw", place.options(driver_format=wanted))
        assert (cloned.format, cloned.size_mb) == (wanted or "raw", 4)
        shell("qemu-img", "compare", "-f", cloned.format, "-F", "raw", place.at(cloned.source), place.source())
    place.check_sound()
    before = place.stored()
    for wrong in ("/etc/passwd", place.source(), f"{place.base}/{NAME}", f"{place.base}/x"):
        with pytest.raises(VmstoreError):
            place.driver.clone(wrong, "raw", place.options())
        assert place.stored() == before


@having("cp", "export")
def test_export(place: Place) -> None:
    source = place.image()
    for image_format in ("raw", None):
        found = place.driver.export(source, image_format)
        assert (found.source, found.format, found.md5) == (source, "raw", shell("md5sum", place.at(source)).split()[0])
    for wrong in ("/etc/passwd", f"{place.base}/{NAME}"):
        with pytest.raises(VmstoreError):
            place.driver.export(wrong, "raw")


@pytest.mark.parametrize("image_format", ["raw", "qcow2"])
@having("cp", "rm", "snap_revert")
def test_snapshots(place: Place, image_format: str) -> None:
    source = place.driver.cp(place.source(), place.options(driver_format=image_format)).source
    directory = place.snapshots(source, image_format)
    data = [place.digest(directory / str(number), image_format) for number in range(3)]
    assert len(set(data)) == 3
    for number in (2, 0, 0, 1):
        place.driver.snap_revert(source, image_format, number)
        assert place.digest(place.at(source), image_format) == data[number]
        place.check_sound()
    for _time in range(2):
        place.driver.snap_delete(source, image_format, 0)
        assert not (directory / "0").exists()
        assert [place.digest(directory / str(number), image_format) for number in (1, 2)] == data[1:]
        assert place.digest(place.at(source), image_format) == data[1]
        place.check_sound()
    before = place.stored()
    for action in (place.driver.snap_revert, place.driver.snap_flatten):
        with refused(NotFound, names=[source, "snapshot 0"]):
            action(source, image_format, 0)
        with pytest.raises(VmstoreError):
            action("/etc/passwd", image_format, 1)
        with pytest.raises(VmstoreError):
            action(source, "vmdk", 1)
    assert place.stored() == before
    for _time in range(2):
        place.driver.snap_flatten(source, image_format, 2)
        assert place.stored() == [os.path.basename(source)]
        assert shell("stat", "--format=%F %a", place.at(source)) == "regular file 640\n"
        assert place.digest(place.at(source), image_format) == data[2]
        assert "backing-filename" not in json.loads(
            shell("qemu-img", "info", "--output=json", "-f", image_format, place.at(source))
        )
    place.check_sound()
    place.driver.rm(source)
    assert place.stored() == []

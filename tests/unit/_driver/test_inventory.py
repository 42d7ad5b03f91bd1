# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import (
    FileAccessFailed,
    NotFound,
    UnsupportedAction,
)
from ansible_collections.granary.vmstore.plugins.module_utils._core.plain import to_plain
from ansible_collections.granary.vmstore.plugins.module_utils._driver.datastore.base import DatastoreDriver
from ansible_collections.granary.vmstore.plugins.module_utils._driver.datastore.directory import SystemDriver
from ansible_collections.granary.vmstore.plugins.module_utils._driver.datastore.fs import FsDriver
from ansible_collections.granary.vmstore.plugins.module_utils._driver.datastore.virtiofs import VirtiofsDriver
from ansible_collections.granary.vmstore.plugins.module_utils._image.new_image import new_image
from ansible_collections.granary.vmstore.plugins.module_utils._model.datastore import Datastore
from refusal import refused

HUNG = Path(__file__).parents[2] / "hung_mount.py"


def name(digit: str) -> str:
    return digit * 32


def driver(path: Path, cls: type[DatastoreDriver] = FsDriver, **attributes: object) -> DatastoreDriver:
    return cls(Datastore(1, "default", "image", "fs", "local", str(path), **attributes))


def images(directory: Path, *digits: str) -> set[str]:
    return {f"{directory}/{name(digit)}" for digit in digits}


def test_stored_are_the_images_whose_data_is_there(tmp_path: Path) -> None:
    for digit in "ab":
        (tmp_path / name(digit)).write_bytes(b"data")
    # Files that the transfer drivers create of a persistent qcow2 image with snapshots.
    (tmp_path / f"{name('c')}.snap").mkdir()
    (tmp_path / f"{name('c')}.snap/1").write_bytes(b"data")
    (tmp_path / name("c")).symlink_to(f"{name('c')}.snap/1")
    (tmp_path / f"{name('d')}.snap").mkdir()
    (tmp_path / f"{name('d')}.snap/1").write_bytes(b"data")
    (tmp_path / name("d")).symlink_to(tmp_path / f"{name('d')}.snap/1")
    assert driver(tmp_path).stored() == images(tmp_path, "a", "b", "c", "d")


def test_what_is_no_image_is_not_stored(tmp_path: Path) -> None:
    (tmp_path / name("a")).write_bytes(b"data")
    (tmp_path / name("1")).mkdir()
    os.mkfifo(tmp_path / name("2"))
    (tmp_path / name("3")).symlink_to("/etc/passwd")
    (tmp_path / name("4")).symlink_to(name("a"))
    (tmp_path / name("5")).symlink_to(f"{name('5')}.snap/0")
    (tmp_path / name("6")).symlink_to(name("6"))
    (tmp_path / f"{name('7')}.snap").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/0").write_bytes(b"data")
    (tmp_path / name("7")).symlink_to(f"{name('7')}.snap/0")
    for other in (f"{name('a')}.md5sum", f".{name('b')}.part", name("A"), f"{name('a')}\n", "a b\nc", name("a")[1:]):
        (tmp_path / other).write_bytes(b"data")
    Path(os.fsdecode(bytes(tmp_path) + b"/\xff\xfe")).write_bytes(b"data")
    assert driver(tmp_path).stored() == images(tmp_path, "a")


def test_a_directory_that_is_missing_holds_not_nothing(tmp_path: Path) -> None:
    for question in (driver(tmp_path / "1").stored, driver(tmp_path / "1").inventory):
        with refused(NotFound, says=f"The directory {tmp_path}/1 could not be read: it does not exist."):
            question()


def test_a_file_is_no_directory(tmp_path: Path) -> None:
    (tmp_path / "1").write_bytes(b"")
    with refused(FileAccessFailed, says=f"Could not read the directory {tmp_path}/1: Not a directory."):
        driver(tmp_path / "1").stored()


@pytest.mark.parametrize("question", ["stored", "inventory", "sweep"])
@pytest.mark.parametrize("cls", [SystemDriver, VirtiofsDriver])
def test_a_driver_that_has_no_images_says_so(tmp_path: Path, cls: type[DatastoreDriver], question: str) -> None:
    with refused(UnsupportedAction, names=[question, cls.info.name]):
        getattr(driver(tmp_path, cls), question)()


def qemu_img(*arguments: object) -> str:
    return subprocess.run(["qemu-img", *map(str, arguments)], capture_output=True, text=True, check=True).stdout


def du(*paths: Path) -> int:
    """Return the allocated bytes on disk."""
    done = subprocess.run(["du", "-B1", "-s", "--total", *paths], capture_output=True, text=True, check=True)
    return int(done.stdout.splitlines()[-1].split()[0])


@pytest.mark.parametrize("image_format", ["raw", "qcow2", "vmdk", "vdi", "vhdx", "vpc"])
def test_an_image(tmp_path: Path, image_format: str) -> None:
    path = tmp_path / name("a")
    # The sizes of VPC images follow from a geometry.
    qemu_img("create", "-q", "-f", image_format, path, 8912 * 1024)
    subprocess.run(["qemu-io", "-f", image_format, "-c", "write 0 1M", path], check=True, capture_output=True)
    (image,) = driver(tmp_path).inventory().images
    told = json.loads(qemu_img("info", "--output=json", "-f", image_format, path))
    assert (image.path, image.format, image.virtual_size(image_format)) == (
        str(path),
        image_format,
        told["virtual-size"],
    )
    assert (image.allocated, image.length) == (du(path), path.stat().st_size)
    assert image.snapshots == ()


def test_a_header_in_a_raw_disk_is_not_believed(tmp_path: Path) -> None:
    path = tmp_path / name("a")
    qemu_img("create", "-q", "-f", "qcow2", path, "1T")
    (image,) = driver(tmp_path).inventory().images
    assert (image.virtual_size("raw"), image.virtual_size("qcow2"), image.virtual_size("vmdk")) == (
        path.stat().st_size,
        1 << 40,
        None,
    )


def test_a_header_that_makes_no_sense(tmp_path: Path) -> None:
    (tmp_path / name("a")).write_bytes(b"QFI\xfb")
    (tmp_path / name("b")).write_bytes(b"QFI\xfb" + b"\xff" * 600)
    (tmp_path / name("c")).write_bytes(b"vhdxfile" + b"\xff" * (1 << 20))
    for image in driver(tmp_path).inventory().images:
        assert image.virtual_size(image.format) is None
        assert image.error.startswith(f"source: '{image.path}' is not accepted: ") or "virtual size" in image.error


def test_snapshots_that_are_copies(tmp_path: Path) -> None:
    path = tmp_path / name("a")
    snapshots = tmp_path / f"{name('a')}.snap"
    snapshots.mkdir()
    for file, size in ((path, 5000), (snapshots / "0", 9000), (snapshots / "12", 1)):
        file.write_bytes(b"x" * size)
    (image,) = driver(tmp_path).inventory().images
    assert image.allocated == du(path)
    assert [(one.id, one.allocated) for one in image.snapshots] == [
        (0, du(snapshots / "0")),
        (12, du(snapshots / "12")),
    ]


def chain(directory: Path, *, shared: bool) -> Path:
    """Create an image of 1 MiB with two snapshots, which has since grown to 2 MiB.

    The layout is that of the transfer drivers ssh and shared.
    """
    path = directory / name("a")
    snapshots = directory / f"{name('a')}.snap"
    snapshots.mkdir()
    first = path if shared else snapshots / "0"
    qemu_img("create", "-q", "-f", "qcow2", first, "1M")
    if shared:
        (snapshots / "0").symlink_to(f"../{path.name}")
        (snapshots / snapshots.name).symlink_to(".")
    else:
        path.symlink_to(f"{snapshots.name}/2")
    for number in (1, 2):
        backing = f"{snapshots.name}/{number - 1}" if shared else f"{number - 1}"
        qemu_img("create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", backing, snapshots / f"{number}")
    qemu_img("resize", "-q", "-f", "qcow2", snapshots / "2", "2M")
    subprocess.run(["qemu-io", "-f", "qcow2", "-c", "write 0 512k", first], check=True, capture_output=True)
    return path


@pytest.mark.parametrize("shared", [False, True])
def test_snapshots_that_are_overlays(tmp_path: Path, shared: bool) -> None:
    path = chain(tmp_path, shared=shared)
    snapshots = tmp_path / f"{path.name}.snap"
    (image,) = driver(tmp_path).inventory().images
    assert (image.path, image.allocated, image.virtual_size("qcow2")) == (str(path), du(snapshots / "2"), 2 << 20)
    assert [(one.id, one.allocated) for one in image.snapshots] == [
        (0, du(path if shared else snapshots / "0")),
        (1, du(snapshots / "1")),
    ]
    assert driver(tmp_path).stored() == {str(path)}


def test_what_is_no_image_is_told_apart(tmp_path: Path) -> None:
    (tmp_path / name("a")).write_bytes(b"data")
    (tmp_path / f"{name('a')}.md5sum").write_bytes(b"sum")
    (tmp_path / f"{name('b')}.snap").mkdir()
    (tmp_path / f"{name('b')}.snap/0").write_bytes(b"x" * 9000)
    (tmp_path / f"{name('b')}.md5sum").write_bytes(b"sum")
    (tmp_path / f"{name('c')}.md5sum").write_bytes(b"sum")
    (tmp_path / f"{name('d')}.snap").symlink_to("/etc")
    (tmp_path / name("e")).symlink_to("/etc/passwd")
    os.mkfifo(tmp_path / name("f"))
    os.mkfifo(tmp_path / f"{name('f')}.md5sum")
    (tmp_path / "a\nb").write_bytes(b"x")
    Path(os.fsdecode(bytes(tmp_path) + b"/\xff\xc3\xa9")).write_bytes(b"data")
    inventory = driver(tmp_path).inventory()
    assert [image.path for image in inventory.images] == [f"{tmp_path}/{name('a')}"]
    assert [(stray.path, stray.allocated) for stray in inventory.orphaned] == [
        (f"{tmp_path}/{name('b')}.snap", du(tmp_path / f"{name('b')}.snap", tmp_path / f"{name('b')}.md5sum")),
        (f"{tmp_path}/{name('c')}.md5sum", du(tmp_path / f"{name('c')}.md5sum")),
    ]
    assert sorted(inventory.foreign) == sorted(
        ["a\nb", f"{name('d')}.snap", name("e"), name("f"), f"{name('f')}.md5sum", "\\xffé"]
    )
    json.dumps(to_plain(inventory), ensure_ascii=False).encode()


HOLD = """
import os, sys
from ansible_collections.granary.vmstore.plugins.module_utils._image.new_image import new_image
with new_image(sys.argv[1]) as part:
    print(os.path.join(part.place, part.name), flush=True)
    sys.stdin.read()
"""


def test_parts_that_a_program_holds_are_no_leftovers(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        held = other.stdout.readline().strip()
        left, directory, link = (tmp_path / f".{name(digit)}.part" for digit in "abc")
        left.write_bytes(b"x" * 9000)
        directory.mkdir()
        (directory / "0").write_bytes(b"x" * 5000)
        link.symlink_to("/etc/passwd")
        with new_image(str(tmp_path)) as mine:  # the creation also sweeps stale temporaries
            assert driver(tmp_path).inventory().in_progress == tuple(sorted([held, str(tmp_path / mine.name)]))
        assert driver(tmp_path).inventory().stale == ()
        left.write_bytes(b"x" * 9000)
        directory.mkdir()
        (directory / "0").write_bytes(b"x" * 5000)
        link.symlink_to("/etc/passwd")
        inventory = driver(tmp_path).inventory()
        assert inventory.in_progress == (held,)
        assert [(one.path, one.allocated) for one in inventory.stale] == [
            (str(path), du(path)) for path in (left, directory, link)
        ]
        driver(tmp_path).sweep()
        assert os.listdir(tmp_path) == [os.path.basename(held)]
        other.stdin.close()
    assert os.listdir(tmp_path) == []


def test_checksums_where_they_are_wanted(tmp_path: Path) -> None:
    chain(tmp_path, shared=False)
    (tmp_path / name("b")).write_bytes(b"x" * (3 << 20))
    (tmp_path / name("c")).write_bytes(b"data")
    wanted = {
        str(tmp_path / name("a")): "md5",
        str(tmp_path / name("b")): "sha256",
        str(tmp_path / name("d")): "sha256",
    }
    done = [
        subprocess.run([f"{wanted[path]}sum", path], capture_output=True, text=True, check=True).stdout.split()[0]
        for path in list(wanted)[:2]
    ]
    assert [image.checksum for image in driver(tmp_path).inventory(wanted).images] == [*done, None]


ASK = """
import json, sys
from ansible_collections.granary.vmstore.plugins.module_utils._model.datastore import Datastore
from ansible_collections.granary.vmstore.plugins.module_utils._driver.datastore.fs import FsDriver
try:
    getattr(FsDriver(Datastore(1, "default", "image", "fs", "local", sys.argv[1]), timeout=0.5), sys.argv[2])()
except Exception as error:
    print(json.dumps([type(error).__name__, str(error)]))
"""


@pytest.mark.parametrize("question", ["stored", "inventory"])
def test_a_dead_file_server_keeps_no_one_waiting(tmp_path: Path, question: str) -> None:
    done = subprocess.run(
        [sys.executable, HUNG, tmp_path, "fuse", sys.executable, "-c", ASK, tmp_path, question],
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout) == [
        "TimedOut",
        f"Reading the directory {tmp_path} did not end within 0.5 seconds and was stopped.",
    ]


def test_a_number_with_leading_zeros_is_no_snapshot(tmp_path: Path) -> None:
    image, snapshots = tmp_path / ("a" * 32), tmp_path / f"{'a' * 32}.snap"
    snapshots.mkdir()
    for path in (image, snapshots / "1", snapshots / "007"):
        path.write_bytes(bytes(512))
    [found] = driver(tmp_path).inventory().images
    assert [one.id for one in found.snapshots] == [1]

# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""A catalog and a datastore on a full or read-only file system. Existing images can be read, and removed."""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._catalog.catalog import open_catalog
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import (
    CatalogFailed,
    FileAccessFailed,
    NoSpace,
)
from ansible_collections.granary.vmstore.plugins.module_utils._service.datastore.check import (
    DATASTORE_CHECK_SPEC,
    DatastoreCheckService,
)
from ansible_collections.granary.vmstore.plugins.module_utils._service.datastore.info import datastore_info
from ansible_collections.granary.vmstore.plugins.module_utils._service.image.images import IMAGE_SPEC, ImageService
from ansible_collections.granary.vmstore.plugins.module_utils._service.image.info import image_info
from refusal import refused

TENANT = 61001

#: Size, command and package of each file system type, with nearly the minimal size.
KINDS = {
    "ext4": ("12M", "mkfs.ext4", "e2fsprogs"),
    "xfs": ("400M", "mkfs.xfs", "xfsprogs"),
    "btrfs": ("120M", "mkfs.btrfs", "btrfs-progs"),
}


@contextlib.contextmanager
def mount_file_system(kind: str, around: Path) -> Iterator[Path]:
    disk, point = around / "disk", around / "mounted"
    point.mkdir()
    if kind == "tmpfs":
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m,nr_inodes=1000", "tests", point], check=True)
    else:
        size, command, package = KINDS[kind]
        subprocess.run(["truncate", "-s", size, disk], check=True)
        try:
            subprocess.run([command, "-q", disk], check=True, capture_output=True)
        except FileNotFoundError:
            pytest.fail(f"{command} is missing; it is in the package {package}.")
        subprocess.run(["mount", "-o", "loop", disk, point], check=True)
    try:
        point.chmod(0o755)
        yield point
    finally:
        subprocess.run(["umount", point], check=True)


@pytest.fixture(params=["ext4", "tmpfs", "xfs", "btrfs"])
def disk(request: pytest.FixtureRequest, tenant: Path) -> Iterator[Path]:
    with mount_file_system(request.param, tenant) as point:
        yield point


@pytest.fixture
def ext4(tenant: Path) -> Iterator[Path]:
    with mount_file_system("ext4", tenant) as point:
        yield point


def run_images(catalog: str, *images: dict[str, object]) -> list[str]:
    """Declare images, and return the names of the actions."""
    options = {name: option.get("default") for name, option in IMAGE_SPEC.argument_spec.items()}
    defaults = {name: option.get("default") for name, option in IMAGE_SPEC.argument_spec["images"]["options"].items()}  # type: ignore[attr-defined]
    plan = ImageService({**options, "catalog": catalog, "images": [{**defaults, **one} for one in images]}).converge()
    return [action.name for action in plan.actions]


def absent(*names: str) -> list[dict[str, object]]:
    return [{"name": name, "state": "absent"} for name in names]


def make_catalog(disk: Path, owner: int = 0, images: int = 30) -> str:
    """Create a catalog and a datastore with images of 20 KiB."""
    source = disk.parent / "source"
    source.write_bytes(os.urandom(20480))
    for name in ("catalog", "datastores"):
        (disk / name).mkdir()
        os.chown(disk / name, owner, owner)
    open_catalog(
        catalog := str(disk / "catalog" / "catalog.sqlite"), create=True, datastore_location=str(disk / "datastores")
    ).close()
    run_images(
        catalog,
        *(
            {"name": f"i{number}", "datastore": "default", "type": "datablock", "path": str(source)}
            for number in range(images)
        ),
    )
    return catalog


def fill(directory: Path) -> None:
    """Allocate all blocks, including those reserved for root."""
    with open(directory / "filler", "ab", buffering=0) as file:
        size = 2**20
        while size:
            try:
                file.write(b"x" * size)
                os.fsync(file.fileno())
            except OSError:
                size //= 2


def names(catalog: str) -> list[str]:
    """Return the names of the images, according to every module that only reads."""
    options = {name: option.get("default") for name, option in DATASTORE_CHECK_SPEC.argument_spec.items()}
    assert DatastoreCheckService({**options, "catalog": catalog}).plan().result["consistent"]
    assert len(datastore_info({"catalog": catalog, "name": None, "timeout": 30, "vms": False})["datastores"]) == 3  # type: ignore[arg-type]
    found = image_info({"catalog": catalog, "name": None, "datastore": None})["images"]
    return [image["name"] for image in found]  # type: ignore[attr-defined]


def list_stored(disk: Path) -> list[str]:
    return os.listdir(disk / "datastores" / "1")


@pytest.mark.parametrize("owner", [0, TENANT])
def test_images_of_a_full_file_system_are_seen_and_removed(disk: Path, owner: int) -> None:
    catalog = make_catalog(disk, owner)
    fill(disk)
    assert len(names(catalog)) == 30
    assert run_images(catalog, *absent("i0")) == ["remove image"]
    fill(disk)
    assert run_images(catalog, *absent(*(f"i{number}" for number in range(1, 30)))) == ["remove image"] * 29
    assert (names(catalog), list_stored(disk)) == ([], [])


AS_TENANT = """
import importlib, pathlib
from ansible_collections.granary.vmstore.plugins import module_utils
root = pathlib.Path(module_utils.__path__[0])
for path in root.rglob("*.py"):  # another user may not read the checkout
    importlib.import_module(".".join([module_utils.__name__, *path.relative_to(root).with_suffix("").parts]))
import os, sys
sys.path.insert(0, os.path.dirname(sys.argv[1]))
import test_full_file_system as tests
os.setgroups([]); os.setgid(61001); os.setuid(61001)
assert len(tests.names(sys.argv[2])) == 30
assert tests.run_images(sys.argv[2], *tests.absent("i7", "i8")) == ["remove image"] * 2
assert len(tests.names(sys.argv[2])) == 28
"""


def test_the_service_user_sees_and_removes_them_too(ext4: Path) -> None:
    catalog = make_catalog(ext4, TENANT)
    fill(ext4)
    subprocess.run([sys.executable, "-c", AS_TENANT, __file__, catalog], check=True)


def test_removing_needs_no_inode(tenant: Path) -> None:
    with mount_file_system("tmpfs", tenant) as disk:
        catalog = make_catalog(disk, TENANT)
        with refused(OSError, errno=errno.ENOSPC):
            for number in range(1000):
                (disk / f"file{number}").touch()
        assert run_images(catalog, *absent("i0")) == ["remove image"]
        assert len(names(catalog)) == 29


def test_a_catalog_without_its_reserve_has_the_space_of_the_data(ext4: Path) -> None:
    """SQLite's own tools and backups create catalogs of this kind."""
    catalog = make_catalog(ext4)
    os.unlink(f"{catalog}-journal")
    fill(ext4)
    assert run_images(catalog, *absent(*(f"i{number}" for number in range(10)))) == ["remove image"] * 10
    assert (len(names(catalog)), len(list_stored(ext4))) == (20, 20)


def test_where_data_makes_no_space_the_error_says_what_is_gone(ext4: Path) -> None:
    catalog = make_catalog(ext4)
    os.unlink(f"{catalog}-journal")
    for name in list_stored(ext4):
        os.truncate(ext4 / "datastores" / "1" / name, 0)
    fill(ext4)
    with refused(
        FileAccessFailed,
        says=f"The data of 'i0', 'i1' is removed, but the catalog {catalog} still has the images: "
        f"remove them again when its file system has space. The catalog {catalog} can't be "
        "written: the file system is full. Nothing was changed.",
    ):
        run_images(catalog, *absent("i0", "i1"))
    assert len(list_stored(ext4)) == 28
    os.unlink(ext4 / "filler")
    assert run_images(catalog, *absent("i0", "i1")) == ["remove image"] * 2
    assert len(image_info({"catalog": catalog, "name": None, "datastore": None})["images"]) == 28  # type: ignore[arg-type]


def test_new_images_of_a_full_file_system_change_nothing(ext4: Path, tenant: Path) -> None:
    catalog = make_catalog(ext4)
    fill(ext4)
    with refused(NoSpace, names=["images[0] (new)", os.strerror(errno.ENOSPC)]):
        run_images(
            catalog, {"name": "new", "datastore": "default", "type": "datablock", "path": str(tenant / "source")}
        )
    assert (len(names(catalog)), len(list_stored(ext4))) == (30, 30)


def make_killed_writer(*statements: str) -> str:
    """Return a program that writes to a catalog with SQLite alone, and ends without closing the catalog."""
    return f"""
import os, sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
for statement in {statements!r}:
    connection.execute(statement)
os._exit(0)
"""


#: Programs of the last writer. They leave a clean catalog, a journal to roll back, or the write-ahead log of earlier
#: versions, which may be empty.
LEFT = {
    "in order": "",
    "a hot journal": make_killed_writer(
        "PRAGMA cache_size = 1",
        "BEGIN",
        "UPDATE image SET origin = printf('%.9999c', 'x')",
        "UPDATE image SET name = name || 'x'",
    ),
    "a log": make_killed_writer(
        "PRAGMA journal_mode = WAL", "PRAGMA wal_autocheckpoint = 0", "UPDATE image SET name = name || '.new'"
    ),
    "a closed log": "import sqlite3, sys\nsqlite3.connect(sys.argv[1]).execute('PRAGMA journal_mode = "
    "WAL').connection.close()",
}


def contents(directory: str) -> dict[str, tuple[int, bytes]]:
    """Return all files except SQLite's shared-memory index, which has no content of its own."""
    return {
        entry.name: (entry.stat().st_mtime_ns, Path(entry).read_bytes())
        for entry in os.scandir(directory)
        if not entry.name.endswith("-shm")
    }


@pytest.mark.parametrize("left", LEFT)
@pytest.mark.parametrize("state", ["writable", "read-only", "full"])
def test_looking_never_writes(ext4: Path, state: str, left: str) -> None:
    catalog = make_catalog(ext4)
    if LEFT[left]:
        subprocess.run([sys.executable, "-c", LEFT[left], catalog], check=True)
    if state == "full":
        fill(ext4)
    if state == "read-only":
        subprocess.run(["mount", "-o", "remount,ro", ext4], check=True)
    directory = os.path.dirname(catalog)
    before = contents(directory), sorted(os.listdir(directory))
    assert names(catalog) == [f"i{number}" + (".new" if left == "a log" else "") for number in range(30)]
    assert (contents(directory), sorted(os.listdir(directory))) == before


@pytest.mark.parametrize("left", LEFT)
def test_the_next_writer_cleans_up(ext4: Path, left: str) -> None:
    catalog = make_catalog(ext4)
    if LEFT[left]:
        subprocess.run([sys.executable, "-c", LEFT[left], catalog], check=True)
    run_images(catalog, {"id": 0, "name": "renamed"})
    assert names(catalog)[0] == "renamed"
    with contextlib.closing(sqlite3.connect(catalog)) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchall() == [("delete",)]
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert sorted(os.listdir(os.path.dirname(catalog))) == [
        "catalog.sqlite",
        "catalog.sqlite-journal",
        "catalog.sqlite.images.lock",
    ]


def test_a_group_that_can_only_read_sees_the_catalog(ext4: Path) -> None:
    catalog = make_catalog(ext4, TENANT)
    script = AS_TENANT.partition("os.setgroups")[0]
    script += "os.setgroups([]); os.setgid(61001); os.setuid(61002)\nassert len(tests.names(sys.argv[2])) == 30\n"
    subprocess.run([sys.executable, "-c", script, __file__, catalog], check=True)


def test_removing_from_a_read_only_file_system_says_so(ext4: Path) -> None:
    catalog = make_catalog(ext4)
    subprocess.run(["mount", "-o", "remount,ro", ext4], check=True)
    with refused(
        CatalogFailed,
        says=f"The catalog {catalog} can't be used: this user may not write to the file or its "
        "directory, or the file system is read-only.",
    ):
        run_images(catalog, *absent("i0"))
    assert len(names(catalog)) == 30

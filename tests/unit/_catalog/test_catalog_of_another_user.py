# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""Root and a catalog in a directory of the service user, who may change the directory at any moment."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._catalog.catalog import (
    Catalog,
    open_catalog,
    read_catalog,
)
from ansible_collections.granary.vmstore.plugins.module_utils._catalog.datastores import DATASTORES
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import (
    CatalogFailed,
    FileAccessFailed,
    NotFound,
    PathNotAllowed,
    VmstoreError,
)
from ansible_collections.granary.vmstore.plugins.module_utils._service.image.work import image_lock
from refusal import refused

#: Number of runs of a race.
TRIES = 200

Swapping = Callable[[Path, Path], contextlib.AbstractContextManager[None]]


@pytest.fixture
def victim(tmp_path: Path) -> Iterator[Path]:
    """Return a file of root, and require at the end of the test that the file is unchanged."""
    (path := tmp_path / "victim").write_bytes(b"root's own\n")
    before = path.stat()
    yield path
    after = path.stat()
    assert path.read_bytes() == b"root's own\n"
    assert (after.st_uid, after.st_gid, after.st_mode) == (before.st_uid, before.st_gid, before.st_mode)
    assert os.listdir(tmp_path) == ["victim"]


@pytest.fixture
def path(tenant: Path) -> str:
    (tenant / "vmstore").mkdir()
    owner = tenant.stat().st_uid
    os.chown(tenant / "vmstore", owner, owner)
    path = str(tenant / "vmstore" / "catalog.sqlite")
    open_catalog(path, create=True).close()
    return path


def put_link(name: str, target: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(name)
    os.symlink(target, name)
    owner = os.stat(os.path.dirname(name)).st_uid
    os.chown(name, owner, owner, follow_symlinks=False)


def write(path: str) -> None:
    with open_catalog(path, create=True) as catalog, catalog.transaction():
        catalog.execute("UPDATE datastore SET name = name || 'x' WHERE id = 1")


@pytest.mark.parametrize("suffix", ["", "-wal", "-shm", "-journal"])
@pytest.mark.parametrize("exists", [True, False])
def test_no_name_of_it_leads_to_a_file_of_root(path: str, victim: Path, suffix: str, exists: bool) -> None:
    if not exists:
        victim.rename(victim.with_name("elsewhere"))
    put_link(path + suffix, victim)
    for use in (write, lambda path: read_catalog(path, missing_ok=True).close()):
        with contextlib.suppress(VmstoreError):
            use(path)
    assert exists == victim.exists()
    if not exists:
        victim.with_name("elsewhere").rename(victim)


def test_no_directory_of_root_becomes_that_of_the_catalog(path: str, victim: Path) -> None:
    directory = Path(path).parent
    directory.rename(directory.with_name("before"))
    put_link(str(directory), victim.parent)
    for use in (write, lambda path: read_catalog(path, missing_ok=True).close()):
        with refused(PathNotAllowed, option="catalog", value=path):
            use(path)


def test_the_lock_of_images_is_no_file_of_root(path: str, victim: Path) -> None:
    for target in (victim, victim.with_name("none")):
        put_link(f"{path}.images.lock", target)
        with (
            refused(
                FileAccessFailed,
                names=[f"{path}.images.lock", os.strerror(errno.ELOOP)],
            ),
            image_lock(path, 0),
        ):
            pass


def test_who_changes_names_all_the_time_reaches_no_catalog_of_root(
    path: str, tenant: Path, tmp_path: Path, swapping: Swapping
) -> None:
    """Names also change between the check of a name and its use."""
    roots = tmp_path / "catalog.sqlite"
    open_catalog(str(roots), create=True).close()
    before = roots.read_bytes()
    (mine := tenant / "mine").mkdir()
    os.chown(mine, 61001, 61001)
    open_catalog(str(mine / "catalog.sqlite"), create=True).close()
    put_link(str(tenant / "away"), tmp_path)
    put_link(str(Path(path).parent / "link"), roots)
    for name, other in ((Path(path), Path(path).parent / "link"), (mine, tenant / "away")):
        attacked = str(name / "catalog.sqlite") if name == mine else str(name)
        with swapping(name, other):
            for _number in range(TRIES):
                with contextlib.suppress(VmstoreError):
                    write(attacked)
        assert roots.read_bytes() == before
        assert sorted(os.listdir(tmp_path)) == [
            "catalog.sqlite",
            "catalog.sqlite-journal",
            "catalog.sqlite.images.lock",
        ]


def test_it_is_read_and_written_with_the_rights_of_the_owner_alone(path: str) -> None:
    """No other user can trace or signal the process meanwhile, and after each call the process is root's again."""
    owner = os.stat(path).st_uid
    found: list[tuple[int, ...]] = []

    def seen() -> int:
        status = dict(
            line.split(":\t", 1) for line in Path("/proc/thread-self/status").read_text().splitlines() if ":\t" in line
        )
        found.append((*map(int, status["Uid"].split()), *map(int, status["Groups"].split())))
        signal_it = f"import os; os.setgroups([]); os.setuid({owner}); os.kill({os.getpid()}, {int(signal.SIGWINCH)})"
        done = subprocess.run([sys.executable, "-c", signal_it], capture_output=True, text=True, check=False, user=0)
        assert "PermissionError" in done.stderr
        return 1

    with open_catalog(path, create=False) as catalog:
        catalog._connection.create_function("seen", 0, seen)
        catalog.execute("SELECT seen()")
        assert os.getresuid() == (0, 0, 0)
    assert found == [(0, owner, 0, owner)]
    assert {one.stat().st_uid for one in Path(path).parent.iterdir()} == {owner}


def test_what_root_made_in_that_directory_is_an_error_with_a_remedy(path: str) -> None:
    os.chown(path, 0, 0)
    owner = os.stat(os.path.dirname(path)).st_uid
    for use in (write, lambda path: read_catalog(path, missing_ok=True)):
        with refused(CatalogFailed, names=[f"'chown --no-dereference {owner} {path}'"]):
            use(path)
    subprocess.run(["chown", "--no-dereference", str(owner), path], check=True)
    write(path)


@pytest.mark.parametrize(("mode", "gid"), [(0o777, 0), (0o770, 61001)])
def test_a_directory_of_root_in_which_others_write_holds_no_catalog(tmp_path: Path, mode: int, gid: int) -> None:
    (directory := tmp_path / "shared").mkdir()
    os.chown(directory, 0, gid)
    directory.chmod(mode)
    with refused(
        CatalogFailed,
        says=f"The catalog can't be at {directory}/catalog.sqlite: the directory {directory} is root's "
        "and other users may write to it, so give it to one of them with chown, or keep them out "
        f"with 'chmod go-w {directory}'.",
    ):
        open_catalog(str(directory / "catalog.sqlite"), create=True)
    assert os.listdir(directory) == []


def test_a_file_of_another_user_in_a_sticky_directory_is_no_catalog(tmp_path: Path) -> None:
    (directory := tmp_path / "shared").mkdir()
    path = directory / "catalog.sqlite"
    open_catalog(str(path), create=True).close()
    directory.chmod(0o1777)
    write(str(path))
    os.chown(path, 61001, 61001)
    with refused(
        CatalogFailed,
        says=f"The catalog's file {path} belongs to the user 61001 and its directory to the user 0, "
        f"who has to own both: look at the file, then run 'chown --no-dereference 0 {path}'.",
    ):
        write(str(path))


def test_one_of_the_users_own_links_still_leads_to_the_catalog(path: str, tenant: Path) -> None:
    put_link(str(tenant / "link"), Path(path))
    write(str(tenant / "link"))
    connection = sqlite3.connect(path)
    assert connection.execute("SELECT name FROM datastore WHERE id = 1").fetchall() == [("defaultx",)]
    connection.close()


def test_a_directory_that_its_owner_cannot_reach(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    (directory := tmp_path / "vmstore").mkdir()
    os.chown(directory, 61001, 61001)
    with refused(
        CatalogFailed,
        says=f"The catalog can't be at {directory}/catalog.sqlite: the user 61001, who owns the "
        f"directory {directory}, may not go there.",
    ):
        read_catalog(str(directory / "catalog.sqlite"), missing_ok=True)


def test_a_catalog_that_is_missing_is_missing(tenant: Path) -> None:
    with pytest.raises(NotFound):
        read_catalog(str(tenant / "catalog.sqlite"), missing_ok=False)
    with read_catalog(str(tenant / "catalog.sqlite"), missing_ok=True) as catalog:
        assert isinstance(catalog, Catalog) and len(DATASTORES.rows(catalog)) == 3
    assert os.listdir(tenant) == []

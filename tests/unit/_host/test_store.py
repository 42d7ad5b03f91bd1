# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""The root directory of a store and its marker, on a directory or on a mount of the simulated datastore."""

from __future__ import annotations

import errno
import os
import stat
import threading
from pathlib import Path

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import (
    CommandFailed,
    Conflict,
    FileAccessFailed,
    NoSpace,
    StaleState,
    VmstoreError,
)
from ansible_collections.granary.vmstore.plugins.module_utils._host.mount import store
from ansible_collections.granary.vmstore.plugins.module_utils._host.mount.store import (
    MARKER,
    StoreRoot,
    change_root,
    create_marker,
    is_uuid,
    read_root,
    remove_marker,
)
from refusal import refused

UUID = "0d0a3a9c-40a4-4c80-a35c-fd3b5b5b1c2e"
OTHER = "11111111-2222-4333-8444-555555555555"
#: A user without an account, who owns a store.
USER = 61001


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "store").mkdir(mode=0o750)
    return tmp_path / "store"


def test_a_store_without_a_marker(root: Path) -> None:
    assert read_root(str(root)) == StoreRoot(0, 0, 0o750, None)


def test_a_marker_is_created_once_and_read_by_everybody(root: Path) -> None:
    create_marker(str(root), UUID)
    assert (root / MARKER).read_text() == f"{UUID}\n"
    assert stat.S_IMODE((root / MARKER).stat().st_mode) == 0o444
    assert os.listdir(root) == [MARKER]
    assert read_root(str(root)).marker == UUID
    with refused(Conflict, names=[UUID]):
        create_marker(str(root), OTHER)
    assert os.listdir(root) == [MARKER]


def test_of_many_that_create_one_wins(root: Path) -> None:
    markers = [f"{number:08x}-0000-4000-8000-000000000000" for number in range(16)]
    barrier = threading.Barrier(len(markers))
    won: list[str] = []

    def create(marker: str) -> None:
        barrier.wait()
        try:
            create_marker(str(root), marker)
            won.append(marker)
        except Conflict:
            pass

    threads = [threading.Thread(target=create, args=[marker]) for marker in markers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert won == [(root / MARKER).read_text().strip()]
    assert os.listdir(root) == [MARKER]


@pytest.mark.parametrize("error", ["EPERM", "EOPNOTSUPP", "ENOSYS", "EMLINK"])
def test_a_store_without_hard_links(error: str, datastore) -> None:
    with datastore.fault("link", error) as rule:
        create_marker(str(datastore.path()), UUID)
    assert rule.hits == 1
    assert os.listdir(datastore.backing) == [MARKER]
    assert read_root(str(datastore.path())).marker == UUID


def test_without_hard_links_the_marker_of_another_host_stays(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other host creates its marker at the worst moment."""

    def link(*_names: object, **_directories: object) -> None:
        (root / MARKER).write_text(f"{OTHER}\n")
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", link)
    with refused(Conflict, names=[OTHER]):
        create_marker(str(root), UUID)
    assert (root / MARKER).read_text() == f"{OTHER}\n"
    assert os.listdir(root) == [MARKER]


def test_a_marker_that_another_host_removes_meanwhile(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An NFS client still knows the name (ESTALE), and finds the truth at the second look."""
    answers = [OSError(errno.ESTALE, os.strerror(errno.ESTALE)), FileNotFoundError(errno.ENOENT, "")]

    def open_file(_directory: int, _name: str) -> int:
        raise answers.pop(0)

    monkeypatch.setattr(store, "open_file_at", open_file)
    assert read_root(str(root)).marker is None
    assert answers == []


def test_a_marker_is_there_wholly_or_not_at_all(walk_faults) -> None:
    def check(path: Path, error: BaseException | None) -> None:
        names = [name for name in os.listdir(path) if name.startswith(MARKER)]
        if error is None:
            assert (names, (path / MARKER).read_text()) == ([MARKER], f"{UUID}\n")
        else:
            assert isinstance(error, VmstoreError)
            # A file that couldn't be removed may stay; the marker itself is whole or missing.
            assert not (path / MARKER).exists() or (path / MARKER).read_text() == f"{UUID}\n"

    assert walk_faults(lambda path: create_marker(str(path), UUID), check) > 8


@pytest.mark.parametrize(
    "content", ["", "\n", "x" * (10 << 20), UUID.upper(), UUID[:-1], f"{UUID}x", "\x00" * 37, "é" * 36]
)
def test_a_damaged_marker(content: str, root: Path) -> None:
    (root / MARKER).write_text(content)
    with refused(Conflict, names=[f"{root}/{MARKER}"]):
        read_root(str(root))


@pytest.mark.parametrize("kind", ["symlink", "fifo", "directory", "dangling", "socket", "device"])
def test_a_marker_that_is_no_regular_file(kind: str, root: Path, tmp_path: Path) -> None:
    """The owner of the store can put anything there. Nothing is followed, opened or waited for."""
    (tmp_path / "secret").write_text(f"{UUID}\n")
    marker = root / MARKER
    if kind in ("symlink", "dangling"):
        marker.symlink_to(tmp_path / ("secret" if kind == "symlink" else "nothing"))
    elif kind == "fifo":
        os.mkfifo(marker)
    elif kind == "directory":
        marker.mkdir()
    elif kind == "socket":
        os.mknod(marker, stat.S_IFSOCK | 0o600)
    else:
        os.mknod(marker, stat.S_IFCHR | 0o600, os.makedev(1, 5))
    for call in (read_root, lambda path: create_marker(path, UUID), lambda path: remove_marker(path, UUID)):
        with pytest.raises(Conflict):
            call(str(root))
    assert os.listdir(root) == [MARKER]
    assert not (tmp_path / "nothing").exists()


def test_only_the_own_marker_is_removed(root: Path) -> None:
    create_marker(str(root), OTHER)
    remove_marker(str(root), UUID)
    assert read_root(str(root)).marker == OTHER
    remove_marker(str(root), OTHER)
    remove_marker(str(root), OTHER)
    assert os.listdir(root) == []


def test_a_path_that_is_a_link_now(root: Path, tmp_path: Path) -> None:
    root.rmdir()
    (tmp_path / "elsewhere").mkdir()
    root.symlink_to(tmp_path / "elsewhere")
    for call in (read_root, lambda path: create_marker(path, UUID), lambda path: change_root(path, 1, 1, 0o700)):
        with pytest.raises(StaleState):
            call(str(root))
    assert os.listdir(tmp_path / "elsewhere") == []
    assert (tmp_path / "elsewhere").stat().st_uid == 0


@pytest.mark.parametrize(("error", "kind"), [("EROFS", FileAccessFailed), ("ENOSPC", NoSpace), ("EDQUOT", NoSpace)])
def test_a_store_that_takes_no_file(error: str, kind: type[VmstoreError], datastore) -> None:
    with datastore.fault("create", error):
        with pytest.raises(kind):
            create_marker(str(datastore.path()), UUID)
    assert os.listdir(datastore.backing) == []


def test_a_read_only_store_has_its_marker(datastore) -> None:
    create_marker(str(datastore.path()), UUID)
    datastore.set(state="read-only")
    assert read_root(str(datastore.path())).marker == UUID
    with pytest.raises(FileAccessFailed):
        change_root(str(datastore.path()), 1, 1, 0o700)


# Root squash


@pytest.fixture
def squashed(datastore_factory):
    """Return a store of the user USER, closed to others, whose server squashes root."""
    datastore = datastore_factory({"host1": {"profile": "nfs4.2"}})
    os.chown(datastore.backing, USER, USER)
    datastore.backing.chmod(0o700)
    return datastore


def test_what_root_may_not_do_the_owner_does(squashed) -> None:
    path = str(squashed.path())
    assert read_root(path).marker is None
    create_marker(path, UUID)
    assert (squashed.backing / MARKER).stat().st_uid == USER
    assert read_root(path) == StoreRoot(USER, USER, 0o700, UUID)
    remove_marker(path, UUID)
    assert os.listdir(squashed.backing) == []
    assert os.geteuid() == 0


def test_a_squashed_root_changes_no_owner(squashed) -> None:
    with refused(CommandFailed, names=["root_squash"]):
        change_root(str(squashed.path()), 0, 0, 0o755)
    found = squashed.backing.stat()
    assert (found.st_uid, stat.S_IMODE(found.st_mode)) == (USER, 0o700)


def test_the_owner_changes_the_mode_for_a_squashed_root(squashed) -> None:
    change_root(str(squashed.path()), USER, USER, 0o750)
    assert stat.S_IMODE(squashed.backing.stat().st_mode) == 0o750


def test_a_server_that_maps_users(datastore_factory) -> None:
    datastore = datastore_factory({"host1": {"profile": "nfs4.2", "squash": "all"}})
    with pytest.raises(CommandFailed):
        change_root(str(datastore.path()), USER, USER, 0o755)
    assert datastore.backing.stat().st_uid == 0


# The root directory


def test_owner_group_and_mode(root: Path) -> None:
    change_root(str(root), USER, USER + 1, 0o2770)
    assert read_root(str(root)) == StoreRoot(USER, USER + 1, 0o2770, None)


def test_a_mode_that_is_refused_leaves_the_owner(datastore) -> None:
    before = read_root(str(datastore.path()))
    with datastore.fault("chmod", errno.EPERM) as rule:
        with pytest.raises(CommandFailed):
            change_root(str(datastore.path()), USER, USER, 0o700)
    assert rule.hits > 0
    found = datastore.backing.stat()
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (before.uid, before.gid, before.mode)


@pytest.mark.parametrize(
    ("text", "expected"), [(UUID, True), (UUID.upper(), False), (f"{UUID}\n", False), ("create", False), ("", False)]
)
def test_a_uuid(text: str, expected: bool) -> None:
    assert is_uuid(text) is expected

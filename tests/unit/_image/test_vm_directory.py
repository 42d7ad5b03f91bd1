# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""VM directories: their paths, the locks of their disks, and their removal."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import (
    Conflict,
    FileAccessFailed,
    InvalidInput,
    LockTimeout,
    NotFound,
)
from ansible_collections.granary.vmstore.plugins.module_utils._image.vm_directory import (
    DiskPath,
    opened_vm_directory,
    parse_disk_path,
)
from ansible_collections.granary.vmstore.plugins.module_utils._image.vm_lock import LOCK_FILE, locked_disk
from ansible_collections.granary.vmstore.plugins.module_utils._image.vm_removal import remove
from refusal import refused


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/var/lib/one//datastores/0/22/disk.9", "disk.9"),
        ("//var/lib/one/datastores/0/22//disk.10/", "disk.10"),
        ("/var/lib/one/datastores/0/22/kernel", "kernel"),
        ("/var/lib/one/datastores/0/22/initrd", "initrd"),
    ],
)
def test_the_path_of_a_disk(path: str, name: str) -> None:
    parsed = parse_disk_path(path)
    assert parsed == DiskPath("/var/lib/one/datastores/0", 22, name)
    assert parsed.path == f"/var/lib/one/datastores/0/22/{name}"


def test_the_path_of_a_directory() -> None:
    parsed = parse_disk_path("/var/lib/one//datastores/100/16", directory=True)
    assert (parsed.datastore, parsed.vm, parsed.name) == ("/var/lib/one/datastores/100", 16, "")
    assert parsed.path == parsed.directory == "/var/lib/one/datastores/100/16"
    with refused(
        InvalidInput,
        says="path: '/var/lib/one/datastores/100/16' is not accepted: a path that ends in <datastore id>/<vm id>/"
        "disk.<disk id> is expected.",
    ):
        parse_disk_path("/var/lib/one/datastores/100/16")


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/",
        "/0/7",
        "disk.0",
        "0/7/disk.0",
        "/ds/0/x/disk.0",
        "/ds/0/07/disk.0",
        "/ds/0/-7/disk.0",
        "/ds/x/7/disk.0",
        "/ds/0/7/disk.0.snap",
        "/ds/0/7/disk.0.snap/1",
        "/ds/0/7/disk.00",
        "/ds/0/7/disk.x",
        "/ds/0/7/disk.",
        "/ds/0/7/disk.1234567890",
        "/ds/0/7/disk.٣",
        "/ds/0/7/../8/disk.0",
        "/ds/0/7/disk.0\n",
        "/ds/0/7/vm.xml",
        "/ds/0/7/;reboot",
        "/ds/1/6573ae15e97409f235cae95705b4d830",
        "/ds/0",
    ],
)
def test_other_paths_are_refused(path: str) -> None:
    with refused(InvalidInput, option="path", value=path):
        parse_disk_path(path, directory=True)
    with refused(InvalidInput, option="path"):
        remove(path)


def test_a_new_directory(tmp_path: Path) -> None:
    os.chown(tmp_path, 1234, 1235)
    old = os.umask(0o077)
    try:
        for _time in range(2):
            with opened_vm_directory(DiskPath(f"{tmp_path}/0", 7, ""), create=True):
                pass
    finally:
        os.umask(old)
    for path in (tmp_path / "0", tmp_path / "0" / "7"):
        assert (path.stat().st_uid, path.stat().st_gid, path.stat().st_mode) == (1234, 1235, 0o40755)


def test_a_directory_that_a_killed_run_left_to_root(tmp_path: Path) -> None:
    os.chown(tmp_path, 1234, 1235)
    (tmp_path / "0" / "7").mkdir(parents=True)
    os.chown(tmp_path / "0", 1234, 1235)
    with opened_vm_directory(DiskPath(f"{tmp_path}/0", 7, ""), create=True):
        assert (tmp_path / "0" / "7").stat().st_uid == 1234


def test_a_missing_directory(tmp_path: Path) -> None:
    with refused(NotFound, says=f"The VM directory {tmp_path}/0/7 does not exist."):
        with opened_vm_directory(DiskPath(f"{tmp_path}/0", 7, "")):
            pass


@pytest.mark.parametrize("create", [False, True])
def test_a_link_is_no_directory(tmp_path: Path, create: bool) -> None:
    (tmp_path / "0").mkdir()
    (tmp_path / "0" / "7").symlink_to("/etc")
    with pytest.raises(FileAccessFailed), opened_vm_directory(DiskPath(f"{tmp_path}/0", 7, ""), create=create):
        pass
    with pytest.raises(FileAccessFailed):
        remove(f"{tmp_path}/0/7")
    assert (tmp_path / "0" / "7").is_symlink()


# Locks


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    path = tmp_path / "0" / "7"
    path.mkdir(parents=True)
    return path


#: A process that holds the lock of the path argv[1] until the end of its input.
HOLDER = """
import sys
from ansible_collections.granary.vmstore.plugins.module_utils._image.vm_directory import parse_disk_path
from ansible_collections.granary.vmstore.plugins.module_utils._image.vm_lock import locked_disk
with locked_disk(parse_disk_path(sys.argv[1], directory=True), doing="cpds"):
    print("locked", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def held() -> Iterator[Callable[[str], subprocess.Popen]]:
    """Return a function that starts a process with a lock."""
    running = []

    def start(path: str) -> subprocess.Popen:
        process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        running.append(process)
        assert process.stdout.readline() == "locked\n"
        return process

    yield start
    for process in running:
        process.communicate(timeout=10)


@pytest.mark.parametrize("name", ["disk.0", "disk.12", "kernel", ""])
def test_a_lock_that_another_process_holds(directory: Path, held: Callable[[str], subprocess.Popen], name: str) -> None:
    path = DiskPath(str(directory.parent), 7, name)
    process = held(path.path)
    begun = time.monotonic()
    with refused(LockTimeout, names=[path.path, f"cpds (process {process.pid} on {os.uname().nodename})"]):
        with locked_disk(path, doing="resize", deadline=0.2):
            pass
    assert time.monotonic() - begun < 5
    other = DiskPath(str(directory.parent), 7, "disk.1")
    if name:  # the lock of another disk is free
        with locked_disk(other, doing="resize", deadline=0.2):
            pass
    else:
        with refused(LockTimeout, names=["cpds"]), locked_disk(other, doing="resize", deadline=0.2):
            pass
    process.communicate(timeout=10)
    with locked_disk(path, doing="resize", deadline=5):
        pass


def test_the_directory_waits_for_each_disk(directory: Path, held: Callable[[str], subprocess.Popen]) -> None:
    process = held(f"{directory}/disk.3")
    with refused(
        LockTimeout,
        says=f"The lock {directory} was not free within 0.1 seconds; cpds (process {process.pid} on *) holds it.",
    ):
        remove(str(directory), deadline=0.1)


def test_a_killed_process_holds_nothing(directory: Path, held: Callable[[str], subprocess.Popen]) -> None:
    process = held(f"{directory}/disk.3")
    process.kill()
    process.wait(10)
    assert remove(str(directory), deadline=5)


def test_an_action_that_waits_for_a_removal_begins_anew(directory: Path) -> None:
    path = DiskPath(str(directory.parent), 7, "disk.0")
    inodes = []

    def wait() -> None:
        with locked_disk(path, doing="clone", create=True, deadline=30) as opened:
            inodes.append(os.fstat(opened).st_ino)

    with locked_disk(DiskPath(str(directory.parent), 7, ""), doing="delete"):
        thread = threading.Thread(target=wait)
        thread.start()
        os.rename(directory, directory.parent / ".7.removed")
    thread.join(30)
    assert inodes == [directory.stat().st_ino]


def test_a_failed_action_leaves_no_empty_directory(directory: Path, held: Callable[[str], subprocess.Popen]) -> None:
    """The directory stays while it has a file, or while another action uses it."""
    path = DiskPath(str(directory.parent), 7, "disk.0")

    def fail() -> None:
        with refused(NotFound, says="gone"), locked_disk(path, doing="clone", create=True):
            raise NotFound("gone")

    (directory / "disk.1").touch()
    fail()
    assert (directory / "disk.1").exists()
    (directory / "disk.1").unlink()
    held(str(directory / "disk.2"))
    fail()
    assert os.listdir(directory) == [LOCK_FILE]
    other = DiskPath(str(directory.parent), 8, "disk.0")
    with refused(NotFound, says="gone"), locked_disk(other, doing="clone", create=True):
        raise NotFound("gone")
    assert os.listdir(directory.parent) == ["7"]


def test_the_lock_file_of_a_stranger_is_not_written_to(directory: Path) -> None:
    (directory.parent / "secret").write_text("unchanged")
    os.link(directory.parent / "secret", directory / LOCK_FILE)
    path = DiskPath(str(directory.parent), 7, "disk.0")
    with pytest.raises(FileAccessFailed), locked_disk(path, doing="clone"):
        pass
    os.unlink(directory / LOCK_FILE)
    (directory / LOCK_FILE).symlink_to("../secret")
    with pytest.raises(FileAccessFailed), locked_disk(path, doing="clone"):
        pass
    os.unlink(directory / LOCK_FILE)
    os.mkfifo(directory / LOCK_FILE)
    with pytest.raises(FileAccessFailed), locked_disk(path, doing="clone"):
        pass
    assert (directory.parent / "secret").read_text() == "unchanged"


def test_a_waiting_action_reports_no_control_characters(directory: Path, held: Callable[[str], object]) -> None:
    held(f"{directory}/disk.0")
    with open(directory / LOCK_FILE, "r+b") as file:
        file.seek(3 * 128)
        file.write(b"\x1b[2J\nERROR: x\0".ljust(128, b"\0"))
    with refused(LockTimeout, names=["?[2J?ERROR: x"]):
        with locked_disk(parse_disk_path(f"{directory}/disk.0"), doing="clone", deadline=0.1):
            pass


def test_root_leaves_a_lock_file_to_the_owner(directory: Path) -> None:
    os.chown(directory, 1234, 1235)
    (directory / LOCK_FILE).touch()  # of a run that was killed
    with locked_disk(parse_disk_path(f"{directory}/disk.0"), doing="clone"):
        assert (directory / LOCK_FILE).stat().st_uid == 1234


# Removal


def test_remove_a_disk(directory: Path) -> None:
    (directory / "disk.0.snap").mkdir()
    for name in ("disk.0", "disk.0.snap/0", "disk.1", "vm.xml"):
        (directory / name).write_text("x")
    (directory / "disk.0.snap" / "disk.0.snap").symlink_to(".")
    assert remove(f"{directory}/disk.0")
    assert not remove(f"{directory}/disk.0")
    assert set(os.listdir(directory)) == {"disk.1", "vm.xml", LOCK_FILE}


def test_a_link_is_removed_without_the_image(directory: Path, tmp_path: Path) -> None:
    (tmp_path / "image").write_text("x")
    (directory / "disk.0").symlink_to(tmp_path / "image")
    assert remove(f"{directory}/disk.0")
    assert (tmp_path / "image").exists()


def test_remove_a_directory(directory: Path, tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "file").touch()
    (directory / "disk.0.snap").mkdir()
    (directory / "disk.0.snap" / "disk.0.snap").symlink_to(".")
    (directory / "backup" / "inner").mkdir(parents=True)
    (directory / "backup" / "inner" / "-rf").touch()
    (directory / "a link").symlink_to(tmp_path / "kept")
    (directory / "disk.1").symlink_to(tmp_path / "kept" / "file")
    (directory / "*\n; $(reboot)").touch()
    os.mkfifo(directory / "monitor.sock")
    (os.fsencode(directory) + b"/\xff\xfe").decode("utf-8", "surrogateescape")
    Path(os.fsdecode(os.fsencode(directory) + b"/\xff\xfe")).touch()
    assert remove(str(directory))
    assert not remove(str(directory))
    assert os.listdir(directory.parent) == []
    assert os.listdir(tmp_path / "kept") == ["file"]


def test_remove_what_a_killed_run_left(directory: Path) -> None:
    (directory / "disk.0").touch()
    os.rename(directory, directory.parent / ".7.removed")
    assert not remove(str(directory))
    assert os.listdir(directory.parent) == []


@pytest.mark.parametrize("name", ["disk.0", "disk.0.snap/1"])
def test_a_directory_in_use_stays(directory: Path, opened_by_qemu: Callable[..., None], name: str) -> None:
    (directory / "disk.0.snap").mkdir()
    (directory / name).write_bytes(bytes(4096))
    opened_by_qemu(directory / name, "-r", "-f", "raw")
    with refused(
        Conflict,
        says=f"{directory}/{name} can't be removed while a program such as a running virtual machine uses it: shut "
        "that down first.",
    ):
        remove(str(directory))
    assert (directory / name).exists()


def test_what_is_mounted_in_a_directory_is_kept(directory: Path) -> None:
    (directory / "backup").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "tests", str(directory / "backup")], check=True)
    found = [directory / "backup", directory.parent / ".7.removed" / "backup"]
    try:
        (directory / "backup" / "file").touch()
        with pytest.raises(FileAccessFailed):
            remove(str(directory))
        assert [path for path in found if (path / "file").exists()]
    finally:
        subprocess.run(["umount", next(path for path in found if path.is_mount())], check=True)
    remove(str(directory))
    assert os.listdir(directory.parent) == []


def test_deep_trees_end(directory: Path) -> None:
    path = directory
    for _level in range(70):
        path = path / "d"
    path.mkdir(parents=True)
    with pytest.raises(FileAccessFailed):
        remove(str(directory))

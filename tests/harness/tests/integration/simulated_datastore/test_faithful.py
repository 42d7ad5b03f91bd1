# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""Properties beyond single calls: nameless open files, descriptors, timestamps, caches, ACLs - and real loads."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import itertools
import mmap
import os
import shutil
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from differential import OWNER, ROOT, as_user
from refusal import refused
from simulated_datastore.client import Running

HARNESS = Path(__file__).resolve().parents[3]
RENAME_NOREPLACE, RENAME_EXCHANGE = 1, 2


def run(*command: str | Path, cwd: Path | None = None, env: dict[str, str] | None = None) -> str:
    if shutil.which(str(command[0])) is None:
        pytest.fail(f"{command[0]} is missing: install sqlite3, git, qemu-utils, rsync, fio, acl and attr.")
    done = subprocess.run(
        [str(word) for word in command], cwd=cwd, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{command}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
    return done.stdout


def renameat2(old: Path, new: Path, flags: int) -> None:
    if ctypes.CDLL(None, use_errno=True).renameat2(-100, bytes(old), -100, bytes(new), flags):
        raise OSError(ctypes.get_errno(), "renameat2")


def test_an_open_file_outlives_its_name(ds: Any) -> None:
    with open(ds.path / "file", "w+b", buffering=0) as file:
        file.write(b"before")
        os.unlink(ds.path / "file")
        assert os.fstat(file.fileno()).st_nlink == 0
        file.write(b" and after")
        os.fchmod(file.fileno(), 0o600)
        os.ftruncate(file.fileno(), 12)
        file.seek(0)
        assert file.read() == b"before and a"
        assert os.fstat(file.fileno()).st_mode & 0o777 == 0o600
        # The new file has another number, although the file system beneath likes to reuse numbers.
        (ds.path / "next").write_text("next")
        assert os.stat(ds.path / "next").st_ino != os.fstat(file.fileno()).st_ino


def test_what_is_known_by_a_descriptor_only(ds: Any) -> None:
    (ds.path / "file").write_text("content")
    (ds.path / "dir").mkdir()
    file, directory = (os.open(ds.path / name, os.O_PATH) for name in ("file", "dir"))
    os.unlink(ds.path / "file")
    os.rmdir(ds.path / "dir")
    assert os.fstat(file).st_nlink == 0
    assert Path(f"/proc/self/fd/{file}").read_text() == "content"
    assert os.listdir(f"/proc/self/fd/{directory}") == []
    with pytest.raises(FileNotFoundError):
        os.mkdir("below", dir_fd=directory)
    os.close(file)
    os.close(directory)


def test_a_fifo_carries_bytes(ds: Any) -> None:
    os.mkfifo(ds.path / "fifo")
    with ThreadPoolExecutor(1) as pool:
        reader = pool.submit((ds.path / "fifo").read_bytes)
        (ds.path / "fifo").write_bytes(b"through")
        assert reader.result(10) == b"through"


def test_rename_flags(ds: Any) -> None:
    one, two = ds.path / "one", ds.path / "two"
    one.write_text("1")
    two.mkdir()
    (two / "inside").write_text("2")
    with pytest.raises(FileExistsError):
        renameat2(one, two, RENAME_NOREPLACE)
    renameat2(one, two, RENAME_EXCHANGE)
    assert two.read_text() == "1"
    assert (one / "inside").read_text() == "2"
    assert sorted(os.listdir(ds.backing / "one")) == ["inside"]
    renameat2(two, ds.path / "three", RENAME_NOREPLACE)
    assert (ds.backing / "three").read_text() == "1"


def test_a_moved_directory_takes_its_tree_along(ds: Any) -> None:
    (ds.path / "a/b/c").mkdir(parents=True)
    with open(ds.path / "a/b/c/file", "wb", buffering=0) as file:
        os.rename(ds.path / "a", ds.path / "moved")
        file.write(b"late")
    assert (ds.path / "moved/b/c/file").read_bytes() == b"late"
    assert not (ds.path / "a").exists()


def test_timestamps_to_the_nanosecond(ds: Any) -> None:
    path = ds.path / "file"
    path.touch()
    for name in (path, ds.path):
        os.utime(name, ns=(1_234_567_890_123_456_789, 987_654_321_987_654_321))
        status = os.stat(name)
        assert (status.st_atime_ns, status.st_mtime_ns) == (1_234_567_890_123_456_789, 987_654_321_987_654_321)
    subprocess.run(["touch", "-m", "-d", "2001-02-03 04:05:06.000000007", str(path)], check=True)
    assert os.stat(ds.backing / "file").st_atime_ns == 1_234_567_890_123_456_789


def test_acls(ds: Any) -> None:
    (ds.path / "dir").mkdir()
    run("setfacl", "-m", "u:1001:rwx,d:u:1002:rw", ds.path / "dir")
    (ds.path / "dir/file").touch()
    for name in ("dir", "dir/file"):
        here, there = (run("getfacl", "-n", "--omit-header", root / name) for root in (ds.path, ds.backing))
        assert here == there
    assert as_user(OWNER, ds.path, [(ds.path / "dir/mine").touch]) == [None]
    assert (ds.backing / "dir/mine").stat().st_uid == 1001


def test_xattrs_one_can_read_back(ds: Any) -> None:
    path = ds.path / "file"
    path.touch()
    os.setxattr(path, "user.large", b"x" * 2000)
    with pytest.raises(FileExistsError):
        os.setxattr(path, "user.large", b"", os.XATTR_CREATE)
    with refused(OSError, errno=errno.ENODATA):
        os.setxattr(path, "user.none", b"", os.XATTR_REPLACE)
    assert os.getxattr(ds.backing / "file", "user.large") == b"x" * 2000
    assert os.listxattr(path) == ["user.large"]


def test_capabilities_go_with_a_write(ds: Any) -> None:
    path = ds.path / "program"
    path.write_bytes(b"old")
    capability = bytes.fromhex("0100000200040000000000000000000000000000")
    os.setxattr(path, "security.capability", capability)
    assert os.getxattr(ds.backing / "program", "security.capability") == capability
    path.write_bytes(b"new")
    assert "security.capability" not in os.listxattr(ds.backing / "program")


def test_mmap_shared_and_written(ds: Any) -> None:
    (ds.path / "file").write_bytes(b"\0" * 8192)
    with open(ds.path / "file", "r+b") as file, mmap.mmap(file.fileno(), 8192) as mapped:
        mapped[4096:4103] = b"through"
        mapped.flush()
        assert (ds.backing / "file").read_bytes()[4096:4103] == b"through"


def test_direct_io(ds: Any) -> None:
    buffer = mmap.mmap(-1, 8192)
    buffer.write(b"d" * 8192)
    fd = os.open(ds.path / "file", os.O_CREAT | os.O_RDWR | os.O_DIRECT)
    try:
        assert os.pwritev(fd, [buffer], 4096) == 8192
        assert os.preadv(fd, [buffer], 0) == 8192
        assert buffer[:] == b"\0" * 4096 + b"d" * 4096
    finally:
        os.close(fd)
        buffer.close()


def test_locks_between_two_descriptors(ds: Any) -> None:
    (ds.path / "lock").touch()
    with open(ds.path / "lock", "r+b") as one, open(ds.path / "lock", "r+b") as two:
        fcntl.flock(one, fcntl.LOCK_EX)
        with pytest.raises(BlockingIOError):
            fcntl.flock(two, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_directory_that_changes_while_it_is_read(ds: Any) -> None:
    names = {f"file-{number:04}" for number in range(3000)}
    for name in names:
        (ds.path / name).touch()
    seen = set()
    with os.scandir(ds.path) as entries:
        for entry in entries:
            seen.add(entry.name)
            os.unlink(ds.path / entry.name)
    assert seen == names
    assert os.listdir(ds.path) == []


def test_holes_stay_holes(ds: Any) -> None:
    with open(ds.path / "sparse", "wb") as file:
        file.truncate(1 << 30)
        file.seek(1 << 29)
        file.write(b"data")
    assert os.stat(ds.path / "sparse").st_blocks * 512 == 4096
    run("cp", "--sparse=always", ds.path / "sparse", ds.path / "copy")
    run("cmp", ds.path / "sparse", ds.path / "copy")
    assert os.stat(ds.backing / "copy").st_blocks * 512 <= 1 << 16


def test_the_backing_directory_changes_from_outside(ds: Any) -> None:
    (ds.path / "dir").mkdir()
    (ds.path / "dir/file").write_text("content")
    held = os.open(ds.path / "dir/file", os.O_RDWR)
    shutil.rmtree(ds.backing / "dir")
    with pytest.raises(FileNotFoundError):
        (ds.path / "dir/file").rename(ds.path / "elsewhere")
    assert os.pread(held, 100, 0) == b"content"
    os.close(held)
    (ds.path / "another").write_text("works")
    (ds.backing / "outside").write_text("seen")
    assert (ds.path / "outside").read_text() == "seen"


def test_few_descriptors_for_many_directories(ds: Any) -> None:
    for number in range(1500):
        (ds.path / f"dir-{number}").mkdir()
        (ds.path / f"dir-{number}/file").touch()
    status = ds.call("status")
    assert status["open_directories"] <= 512
    assert len(os.listdir(f"/proc/{status['pid']}/fd")) < 600
    shutil.rmtree(ds.path / "dir-0")
    for number in range(1, 1500, 100):
        assert (ds.path / f"dir-{number}/file").exists()
    for number in range(1, 1500):
        shutil.rmtree(ds.path / f"dir-{number}")
    ds.call("wait_for", predicate={"op": "rmdir", "count": 1500})
    subprocess.run(["mount", "-o", "remount", str(ds.path)], check=False)
    # The kernel sends forget requests together with later requests.
    for _unused in range(200):
        os.statvfs(ds.path)
    assert ds.call("status")["nodes"] < 50


def test_more_files_open_than_the_daemon_may_have(tmpfs: Path) -> None:
    root = tmpfs / "descriptors"
    for name in ("backing", "mount"):
        (root / name).mkdir(parents=True)
    start = (
        "import sys; from pathlib import Path; from simulated_datastore.client import start; root = Path(sys.argv[1]);"
        "start('descriptors', root / 'backing', [{'mount_point': str(root / 'mount')}], log=root / 'log')"
    )
    run(
        "prlimit", "--nofile=400:400", sys.executable, "-c", start, root, env={**os.environ, "PYTHONPATH": str(HARNESS)}
    )
    datastore = Running("descriptors")
    try:
        held = [os.open(root / f"mount/{number}", os.O_CREAT | os.O_RDWR) for number in range(1000)]
        assert (
            "400"
            in Path(f"/proc/{datastore.record()['pid']}/limits")
            .read_text()
            .split("Max open files", 1)[1]
            .split("\n")[0]
        )
        for number in range(0, 1000, 10):
            (root / f"mount/{number}").unlink()
            (root / f"mount/{number + 1}").rename(root / f"mount/renamed-{number + 1}")
        for number, fd in enumerate(held):
            assert os.write(fd, b"%d" % number) == len(b"%d" % number)
        for number, fd in enumerate(held):
            assert os.pread(fd, 10, 0) == b"%d" % number
            assert os.fstat(fd).st_nlink == (number % 10 != 0)
            os.close(fd)
        assert [(root / "backing" / name).read_text() for name in ("renamed-1", "2")] == ["1", "2"]
    finally:
        datastore.end()
    assert " ERROR " not in (root / "log").read_text()


def test_what_a_client_never_forgets_takes_few_descriptors(mounted: Callable[..., Any]) -> None:
    ds = mounted([{"client": "host1", "profile": "nfs4.2", "squash": "none"}, {"client": "host2"}])
    one, two = (Path(client["mount_point"]) for client in ds.call("status")["clients"].values())
    for number in range(1500):
        (two / str(number)).touch()
    assert len([os.stat(one / str(number)) for number in range(1500)]) == 1500
    held = os.open(one / "7", os.O_RDONLY)
    for number in range(1500):
        (two / str(number)).unlink()
    assert len(os.listdir(f"/proc/{ds.running.record()['pid']}/fd")) < 700
    assert os.pread(held, 1, 0) == b""
    os.close(held)
    (two / "7").write_text("new")
    assert (one / "7").read_text() == "new"


def test_files_are_forgotten(mounted: Callable[..., Any]) -> None:
    ds = mounted(known=1000)
    (ds.path / "dir").mkdir()
    for number in range(6000):
        (ds.path / f"dir/{number}").touch()
    assert ds.call("status")["nodes"] < 3000
    held = os.open(ds.path / "dir/17", os.O_RDONLY)
    for _unused in range(3):
        assert len([os.stat(ds.path / f"dir/{number}") for number in range(6000)]) == 6000
    deadline = time.monotonic() + 20
    numbers = itertools.cycle(range(6000))
    while (nodes := ds.call("status")["nodes"]) > 1500:
        # The kernel's forget requests come with other requests.
        os.stat(ds.path / f"dir/{next(numbers)}")
        assert time.monotonic() < deadline, nodes
    assert os.fstat(held).st_nlink == 1
    os.close(held)


def test_two_clients_see_each_other(mounted: Callable[..., Any]) -> None:
    ds = mounted([{"client": "host1"}, {"client": "host2"}])
    one, two = (Path(client["mount_point"]) for client in ds.call("status")["clients"].values())
    (one / "file").write_text("one")
    assert (two / "file").read_text() == "one"
    (two / "file").write_text("longer by two")
    assert (one / "file").read_text() == "longer by two"
    os.rename(one / "file", one / "renamed")
    assert os.listdir(two) == ["renamed"]
    assert os.stat(one / "renamed").st_ino == os.stat(two / "renamed").st_ino


# Real loads


def sqlite(path: Path, journal: str) -> None:
    script = f"pragma journal_mode={journal}; create table t(a integer primary key, b blob);" + "".join(
        f"begin; insert into t(b) values (randomblob({size})); update t set b = randomblob(900) where a % 3 = 0; "
        "commit;"
        for size in range(100, 6000, 200)
    )
    run("sqlite3", path / f"{journal}.db", script)
    assert run("sqlite3", path / f"{journal}.db", "pragma integrity_check; select count(*) from t").split() == [
        "ok",
        "30",
    ]


def git(path: Path) -> None:
    origin = path / "origin"
    origin.mkdir()
    identity = ("-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false")
    run("git", "init", "-q", origin)
    for number in range(5):
        for name in range(20):
            (origin / f"{name}.txt").write_text(f"{number} {name}\n" * 200)
        run("git", *identity, "-C", origin, "add", ".")
        run("git", *identity, "-C", origin, "commit", "-q", "-m", str(number))
    run("git", "clone", "-q", "--no-local", origin, path / "clone")
    run("git", "-C", path / "clone", "gc", "-q", "--prune=now")
    run("git", "-C", path / "clone", "fsck", "--strict")
    assert run("git", "-C", path / "clone", "status", "--porcelain") == ""


def qemu_img(path: Path) -> None:
    run("qemu-img", "create", "-q", "-f", "qcow2", path / "a.qcow2", "64M")
    run("qemu-io", "-f", "qcow2", "-c", "write -P 7 1M 3M", "-c", "discard 2M 1M", path / "a.qcow2")
    run("qemu-img", "convert", "-O", "raw", path / "a.qcow2", path / "a.raw")
    run("qemu-img", "create", "-q", "-f", "qcow2", "-b", path / "a.qcow2", "-F", "qcow2", path / "b.qcow2")
    run("qemu-io", "-f", "qcow2", "-c", "write -P 8 10M 1M", path / "b.qcow2")
    run("qemu-img", "commit", "-q", path / "b.qcow2")
    run("qemu-img", "check", "-q", path / "a.qcow2")
    run("qemu-io", "-f", "qcow2", "-c", "read -P 8 10M 1M", "-c", "read -P 7 1M 1M", path / "a.qcow2")


def copies(path: Path) -> None:
    source = path / "source"
    source.mkdir()
    for number in range(50):
        (source / f"f{number}").write_bytes(os.urandom(number * 500))
        os.chmod(source / f"f{number}", 0o600 + number % 8)
    os.link(source / "f1", source / "hard")
    os.symlink("f1", source / "soft")
    os.setxattr(source / "f2", "user.x", b"y")
    run("rsync", "-aHAX", f"{source}/", path / "rsynced")
    assert run("rsync", "-aHAXinc", f"{source}/", f"{path}/rsynced/") == ""
    (path / "untarred").mkdir()
    run("tar", "-C", source, "--xattrs", "-cf", path / "all.tar", ".")
    run("tar", "-C", path / "untarred", "--xattrs", "-xf", path / "all.tar")
    run("diff", "-r", source, path / "untarred")


def fio(path: Path) -> None:
    run(
        "fio",
        "--name=verify",
        f"--directory={path}",
        "--rw=randrw",
        "--bs=4k-64k",
        "--size=8M",
        "--numjobs=2",
        "--verify=crc32c",
        "--do_verify=1",
        "--verify_fatal=1",
        "--fsync=16",
        "--direct=1",
        "--ioengine=psync",
        "--fallocate=none",
        cwd=path,
    )


LOADS = {
    "sqlite-delete": lambda path: sqlite(path, "delete"),
    "sqlite-wal": lambda path: sqlite(path, "wal"),
    "git": git,
    "qemu-img": qemu_img,
    "rsync-tar": copies,
    "fio": fio,
}


@pytest.mark.parametrize("load", LOADS)
def test_load(ds: Any, load: str) -> None:
    LOADS[load](ds.path)


def test_two_of_each_at_once(ds: Any) -> None:
    def work(number: int) -> None:
        for name, load in LOADS.items():
            directory = ds.path / f"{number}-{name}"
            directory.mkdir()
            load(directory)

    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(work, number) for number in range(2)]:
            done.result()
    assert ds.call("status")["bugs"] == 0


def test_a_client_killed_in_the_middle(ds: Any) -> None:
    writer = subprocess.Popen(
        ["dd", "if=/dev/zero", f"of={ds.path}/big", "bs=64k", "count=4000"], stderr=subprocess.DEVNULL
    )
    ds.call("wait_for", predicate={"op": "write", "path": "big", "count": 20})
    writer.kill()
    writer.wait()
    (ds.path / "after").write_text("lives")
    assert stat.S_ISREG(os.stat(ds.backing / "after").st_mode)
    assert threading.active_count() < 50
    assert as_user(ROOT, ds.path, [lambda: os.listdir(".")]) == [["big", "after"]] or set(os.listdir(ds.path)) == {
        "big",
        "after",
    }

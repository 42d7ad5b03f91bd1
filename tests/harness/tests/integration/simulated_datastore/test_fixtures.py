# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""The fixtures for users, on right and on wrong code."""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from refusal import refused
from simulated_datastore import testing
from simulated_datastore.testing import CrashWalker, FaultWalker, KillWalker, SimulatedDatastore


def careful(directory: Path) -> None:
    """Write a temporary file, fsync, rename, fsync the directory. A failure leaves nothing behind."""
    temporary = directory / "config.new"
    try:
        fd = os.open(temporary, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
        try:
            os.write(fd, b"new content")
            os.fsync(fd)
        finally:
            os.close(fd)
        os.rename(temporary, directory / "config")
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    fd = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def careless(directory: Path) -> None:
    """Do the same without fsync and without error handling."""
    (directory / "config.new").write_bytes(b"new content")
    os.rename(directory / "config.new", directory / "config")


def prepare(directory: Path) -> None:
    (directory / "config").write_bytes(b"old content")


def whole(directory: Path) -> None:
    assert (directory / "config").read_bytes() in (b"old content", b"new content")


def clean(directory: Path, raised: BaseException | None) -> None:
    whole(directory)
    assert os.listdir(directory) == ["config"]
    assert raised is not None or (directory / "config").read_bytes() == b"new content"


def test_a_datastore(datastore: SimulatedDatastore) -> None:
    path = datastore.path("host1")
    with datastore.fault("write", errno.EIO, path="*.qcow2", nth=2) as rule:
        with refused(OSError, errno=errno.EIO), open(path / "disk.qcow2", "wb", buffering=0) as file:
            file.write(b"x")
            file.write(b"x")
        assert (rule.hits, rule.matches) == (1, 2)
    assert rule.hits == 1
    (path / "disk.qcow2").write_bytes(b"works")
    datastore.set(size="1M")
    assert os.statvfs(path).f_blocks == 256


def test_read_exactly_once(datastore_factory: Callable[..., SimulatedDatastore]) -> None:
    datastore = datastore_factory({"host1": {"strict": True}})
    path = datastore.path()
    (path / "disk[1].raw").write_bytes(b"x" * 300_000)
    datastore.ledger.read("disk[1].raw").assert_none()
    subprocess.run(["cp", path / "disk[1].raw", "/dev/null"], check=True)
    datastore.ledger.read("disk[1].raw").assert_once()
    with refused(AssertionError, says="disk[1].raw: 300000 bytes were read in * requests"):
        datastore.ledger.read("disk[1].raw").assert_none()
    subprocess.run(["cp", path / "disk[1].raw", "/dev/null"], check=True)
    with refused(AssertionError, says="disk[1].raw: bytes 0 to * were read more than once"):
        datastore.ledger.read("disk[1].raw").assert_once()
    datastore.ledger.mark("again")
    subprocess.run(
        ["dd", f"if={path / 'disk[1].raw'}", "of=/dev/null", "bs=4k", "count=10"], check=True, capture_output=True
    )
    with refused(AssertionError, says="disk[1].raw: bytes 40960 to 300000 were never read"):
        datastore.ledger.read("disk[1].raw", since="again").assert_once()


def test_a_crash(datastore_factory: Callable[..., SimulatedDatastore]) -> None:
    datastore = datastore_factory(crash_tracking=True)
    (datastore.path() / "file").write_text("x")
    assert datastore.crash()["lost"]
    assert os.listdir(datastore.path()) == []


def test_the_daemon_is_scheduled_before_others(datastore: SimulatedDatastore) -> None:
    pid = datastore.status()["pid"]
    assert os.getpriority(os.PRIO_PROCESS, pid) == -10
    group = Path(f"/proc/{pid}/autogroup")
    # The kernel may lack the feature.
    assert not group.exists() or group.read_text().endswith(" nice -10\n")


def test_the_fault_walker_passes_careful_code(walk_faults: FaultWalker) -> None:
    # create, write, fsync, close, rename, fsyncdir, close
    assert walk_faults(careful, clean, prepare=prepare, errnos=(errno.EIO, errno.ENOSPC)) >= 12


def test_the_fault_walker_finds_what_careless_code_leaves(walk_faults: FaultWalker) -> None:
    with refused(AssertionError, names=["ENOSPC", "config.new"]):
        walk_faults(careless, clean, prepare=prepare, errnos=(errno.ENOSPC,))


def test_the_crash_walker_passes_careful_code(walk_crashes: CrashWalker) -> None:
    assert walk_crashes(careful, whole, prepare=prepare, limit=6) > 10


def test_the_crash_walker_finds_what_careless_code_loses(walk_crashes: CrashWalker) -> None:
    with refused(AssertionError, says="after a crash before change *, with *: *"):
        walk_crashes(careless, whole, prepare=prepare)


def test_walks_with_a_stride_take_samples(
    walk_faults: FaultWalker, walk_kills: KillWalker, walk_crashes: CrashWalker
) -> None:
    # Of 6 or 7 changes, the first and the fourth, and with the second errno the second and the fifth.
    assert walk_kills(careful, survivable, prepare=prepare, stride=3) == 2
    assert 4 <= walk_faults(careful, clean, prepare=prepare, errnos=(errno.EIO, errno.ENOSPC), stride=3) <= 6
    assert walk_crashes(careful, whole, prepare=prepare, limit=1, stride=3) == 3


def survivable(directory: Path) -> None:
    """Assert that the rest of a killed run is in nobody's way."""
    whole(directory)
    assert set(os.listdir(directory)) <= {"config", "config.new"}
    careful(directory)
    assert (directory / "config").read_bytes() == b"new content"


def in_place(directory: Path) -> None:
    """Run another process, which must be killed as well."""
    subprocess.run(["sh", "-c", "echo new content > config; wait; echo more >> config"], cwd=directory, check=True)


def test_the_kill_walker_passes_careful_code(walk_kills: KillWalker) -> None:
    # create, write, fsync, close, rename, fsyncdir
    assert walk_kills(careful, survivable, prepare=prepare) == 6


def test_a_close_after_reading_is_no_change(walk_kills: KillWalker) -> None:
    def read(directory: Path) -> None:
        whole(directory)
        careful(directory)

    assert walk_kills(read, survivable, prepare=prepare) == 6


def test_the_kill_walker_finds_what_a_killed_process_leaves(walk_kills: KillWalker) -> None:
    with refused(AssertionError, says="after a kill before change 2: *config.new*"):
        walk_kills(careful, lambda directory: clean(directory, OSError()), prepare=prepare)
    seen: list[bytes] = []
    with refused(AssertionError, names=["change 2"]):
        walk_kills(
            in_place,
            lambda directory: (seen.append((directory / "config").read_bytes()), whole(directory))[-1],
            prepare=prepare,
        )
    assert seen == [b"old content", b""]


def test_the_kill_walker_tells_of_code_that_fails_by_itself(
    walk_kills: KillWalker, capfd: pytest.CaptureFixture[str]
) -> None:
    with refused(AssertionError, says="the process ended with 1 without a kill, see its standard error"):
        walk_kills(lambda directory: os.unlink(directory / "nothing"), whole, prepare=prepare)
    assert "FileNotFoundError" in capfd.readouterr().err


def transfer(directory: Path) -> None:
    with contextlib.closing(sqlite3.connect(directory / "db")) as database:
        database.execute("update account set balance = balance - 10 where id = 1")
        database.execute("update account set balance = balance + 10 where id = 2")
        database.commit()


def accounts(directory: Path) -> None:
    with contextlib.closing(sqlite3.connect(directory / "db")) as database:
        database.execute("create table account (id integer primary key, balance integer)")
        database.execute("insert into account values (1, 100), (2, 100)")
        database.commit()


def balanced(directory: Path) -> None:
    with contextlib.closing(sqlite3.connect(directory / "db")) as database:
        assert database.execute("pragma integrity_check").fetchone() == ("ok",)
        assert database.execute("select sum(balance) from account").fetchone() == (200,)


def test_sqlite_survives_every_crash(walk_crashes: CrashWalker) -> None:
    assert walk_crashes(transfer, balanced, prepare=accounts, names="strict", limit=2) > 15


def pages(directory: Path) -> None:
    """Make more changes than a walk has states."""
    fd = os.open(directory / "pages", os.O_WRONLY)
    for number in range(24):
        os.pwrite(fd, b"n" * 4096, number * 4096)
    os.close(fd)


def test_the_crash_walker_finds_one_write_of_many(walk_crashes: CrashWalker) -> None:
    def check(directory: Path) -> None:
        content = (directory / "pages").read_bytes()
        assert content[23 * 4096 :].count(b"n") < 4096 or content[5 * 4096 : 6 * 4096] == b"n" * 4096, (
            "the last page without that of the number 5"
        )

    with refused(AssertionError, names=["change 2", "the last page without that of the number 5"]):
        walk_crashes(pages, check, prepare=lambda directory: (directory / "pages").write_bytes(b"o" * 24 * 4096))


def test_the_crash_walker_finds_a_write_ahead_log_that_is_not_synced(walk_crashes: CrashWalker) -> None:
    def prepare(directory: Path) -> None:
        accounts(directory)
        with contextlib.closing(sqlite3.connect(directory / "db")) as database:
            assert database.execute("pragma journal_mode=wal").fetchone() == ("wal",)

    def work(directory: Path, synchronous: str) -> None:
        with contextlib.closing(sqlite3.connect(directory / "db")) as database:
            database.execute(f"pragma synchronous={synchronous}")
            for _unused in range(2):
                database.execute("update account set balance = balance - 10 where id = 1")
                database.execute("create table if not exists more as select * from account")
                database.execute("update account set balance = balance + 10 where id = 2")
                database.commit()
                database.execute("pragma wal_checkpoint(truncate)")

    with refused(AssertionError, names=["crash", "change"]):
        walk_crashes(lambda directory: work(directory, "off"), balanced, prepare=prepare)
    assert walk_crashes.reports == []
    crashes = walk_crashes(lambda directory: work(directory, "full"), balanced, prepare=prepare, limit=2)
    # The walk tried some of the states, and reports both numbers.
    assert crashes < crashes.states
    assert walk_crashes.reports == [f"{crashes} (limit=2, seed=0)"]


def test_a_walk_that_was_cut_is_told_of_in_the_summary(tmp_path: Path) -> None:
    tmp_path.joinpath("test_it.py").write_text("""
def test_walk(walk_crashes):
    walk_crashes(lambda directory: (directory / "file").write_bytes(b"x" * 8192), lambda directory: None, limit=3)
""")
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "--rootdir",
            tmp_path,
            tmp_path / "test_it.py",
            "--junit-xml",
            tmp_path / "junit.xml",
        ],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(Path(testing.__file__).parents[1])},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    # 1; 2, with the name or without; and 2 times 2 times 7 contents: before the close, and after.
    assert "test_it.py::test_walk: 9 crashes, into 9 of 31 states of the disk (limit=3, seed=0)" in done.stdout
    assert 'name="walk_crashes"' in (tmp_path / "junit.xml").read_text()

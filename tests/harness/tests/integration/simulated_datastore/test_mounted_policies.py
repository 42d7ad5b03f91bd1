# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""The policies as seen by programs on real mounts: df, du, dd, stat and the shell."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import select
import signal
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
from simulated_datastore.client import start
from simulated_datastore.errors import SimulatedDatastoreError
from simulated_datastore.system import mounts


def df(path: Path, columns: str = "size,used,avail") -> list[int]:
    return [
        int(word)
        for word in subprocess.run(["df", f"--output={columns}", str(path)], capture_output=True, text=True, check=True)
        .stdout.splitlines()[1]
        .split()
    ]


def du(path: Path) -> int:
    return int(subprocess.run(["du", "-sk", str(path)], capture_output=True, text=True, check=True).stdout.split()[0])


def dd(path: Path, size: int, *options: str) -> tuple[int, str]:
    done = subprocess.run(
        ["dd", "if=/dev/zero", f"of={path}", "bs=1k", f"count={size}", *options],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "LC_ALL": "C"},
    )
    return done.returncode, done.stderr


def test_df_du_and_enospc_agree(ds: Any) -> None:
    ds.call("resize", size=1 << 20, inodes=100)
    assert df(ds.path)[0] == 1024
    code, message = dd(ds.path / "big", 2000)
    assert code == 1
    assert "No space left on device" in message
    assert df(ds.path) == [1024, 1024, 0]
    assert du(ds.path) == 1024
    assert os.stat(ds.path / "big").st_size == (1 << 20) - (1024 - du(ds.path / "big")) * 1024
    ds.call("resize", size=2 << 20)
    assert df(ds.path) == [2048, 1024, 1024]
    os.unlink(ds.path / "big")
    assert df(ds.path)[1] == du(ds.path)
    for number in range(99):
        (ds.path / f"{number}").touch()
    assert df(ds.path, "itotal,iused,iavail") == [100, 100, 0]
    with refused(OSError, errno=errno.ENOSPC):
        (ds.path / "one too many").touch()


def test_two_clients_share_one_capacity(mounted: Callable[..., Any]) -> None:
    ds = mounted([{"client": "host1"}, {"client": "host2"}])
    one, two = (Path(client["mount_point"]) for client in ds.call("status")["clients"].values())
    ds.call("resize", size=1 << 20)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda path: dd(path / f"from-{path.name}", 900), (one, two)))
    assert df(one) == df(two) == [1024, 1024, 0]
    assert du(one) == 1024


def test_a_rule_hits_and_the_ledger_proves_it(ds: Any) -> None:
    rule = ds.call("rule.add", ops=["write"], path="*.qcow2", nth=3, error="EIO")
    code, message = dd(ds.path / "disk.qcow2", 10)
    assert code == 1
    assert "Input/output error" in message
    assert dd(ds.path / "disk.raw", 10)[0] == 0
    assert [(row["path"], row["offset"], row["error"]) for row in ds.call("ledger.query", rule=rule["id"])] == [
        ("/disk.qcow2", 2048, errno.EIO)
    ]


@pytest.mark.parametrize(
    "op",
    [
        "create",
        "mkdir",
        "unlink",
        "rename",
        "truncate",
        "chmod",
        "fsync",
        "symlink",
        "link",
        "read",
        "open",
        "setxattr",
        "close",
    ],
)
def test_every_kind_of_operation_can_fail(ds: Any, op: str) -> None:
    (ds.path / "file").write_text("content")
    held = os.open(ds.path / "file", os.O_RDWR)
    work: dict[str, Callable[[], Any]] = {
        "create": (ds.path / "new").touch,
        "mkdir": (ds.path / "dir").mkdir,
        "unlink": lambda: os.unlink(ds.path / "file"),
        "rename": lambda: os.rename(ds.path / "file", ds.path / "other"),
        "truncate": lambda: os.truncate(ds.path / "file", 2),
        "chmod": lambda: os.chmod(ds.path / "file", 0o600),
        "fsync": lambda: os.fsync(held),
        "symlink": lambda: os.symlink("x", ds.path / "link"),
        "link": lambda: os.link(ds.path / "file", ds.path / "hard"),
        "read": (ds.path / "file").read_bytes,
        "open": (ds.path / "file").read_bytes,
        "setxattr": lambda: os.setxattr(ds.path / "file", "user.a", b"b"),
        "close": lambda: os.close(os.dup(held)),
    }
    # The kernel repeats a failed read-ahead.
    ds.call("rule.add", ops=[op], error="EDQUOT", times=2 if op == "read" else 1)
    with pytest.raises(OSError) as caught:  # noqa: PT011
        work[op]()
    assert caught.value.errno == errno.EDQUOT
    work[op]()
    os.close(held)


def test_a_hung_server_holds_its_clients_and_no_others(mounted: Callable[..., Any]) -> None:
    ds = mounted([{"client": "host1"}, {"client": "host2"}])
    one, two = (Path(client["mount_point"]) for client in ds.call("status")["clients"].values())
    (one / "file").write_text("content")
    ds.call("state.set", state="hung", client="host1")
    readers = [subprocess.Popen(["cat", str(one / "file")], stdout=subprocess.PIPE) for _unused in range(150)]
    ds.call("wait_for", predicate={"parked": 1})
    assert (two / "file").read_text() == "content"
    ds.call("state.set", state="up")
    assert {reader.communicate(timeout=30)[0] for reader in readers} == {b"content"}


def test_hundreds_of_hung_requests_leave_the_mount_alive(ds: Any) -> None:
    for number in range(300):
        (ds.path / str(number)).touch()
    ds.call("rule.add", id="hang", ops=["unlink"], path="*", action="hang")
    workers = []
    for number in range(150):
        (ds.path / f"d{number}").mkdir()
        (ds.path / f"d{number}/x").touch()
        workers.append(subprocess.Popen(["rm", str(ds.path / f"d{number}/x")]))
    ds.call("wait_for", predicate={"parked": 150})
    assert (ds.path / "0").exists()
    (ds.path / "while they hang").write_text("works")
    ds.call("rule.del", id="hang")
    assert [worker.wait(30) for worker in workers] == [0] * 150


def test_a_request_withdrawn_before_it_is_read_stops_nobody(ds: Any) -> None:
    """The kernel withdraws a request when its process is killed before the daemon's read. The read then finds no
    request.
    """
    for number in range(100):
        process = os.fork()
        if not process:
            for _unused in range(8):
                threading.Thread(target=_look, args=(ds.path / "nothing",), daemon=True).start()
            signal.pause()
        ds.call("ledger.mark", name=str(number))
        ds.call("wait_for", predicate={"op": "lookup", "since": str(number), "count": 20})
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        assert ds.control.call("rule.list", deadline=10) == []


def _look(path: Path) -> None:
    while True:
        path.exists()


def test_down_and_back(ds: Any) -> None:
    (ds.path / "file").write_text("content")
    ds.call("state.set", state="down", error="EHOSTDOWN")
    with pytest.raises(OSError) as caught:  # noqa: PT011
        (ds.path / "other").touch()
    assert caught.value.errno == errno.EHOSTDOWN
    ds.call("state.set", state="up")
    (ds.path / "other").touch()


def test_latency_on_a_clock_of_ones_own(mounted: Callable[..., Any]) -> None:
    ds = mounted(clock="mock")
    ds.call("schedule.set", latency={"mkdir": 3600})
    maker = subprocess.Popen(["mkdir", str(ds.path / "dir")])
    ds.call("wait_for", predicate={"parked": 1})
    ds.call("clock.advance", seconds=3599)
    assert maker.poll() is None
    ds.call("clock.advance", seconds=1)
    assert maker.wait(20) == 0
    assert (ds.backing / "dir").is_dir()


def test_bandwidth_on_a_real_clock(ds: Any) -> None:
    ds.call("schedule.set", write=1 << 20)
    begin = time.monotonic()
    assert dd(ds.path / "file", 300)[0] == 0
    # A loaded machine may be slower, never faster.
    assert time.monotonic() - begin > 0.25


def test_root_and_all_squash(mounted: Callable[..., Any]) -> None:
    ds = mounted(
        [
            {"client": "root", "profile": "nfs3"},
            {"client": "all", "profile": "nfs4.2", "squash": "all", "anonymous_uid": 1234, "anonymous_gid": 1234},
            {"client": "none", "profile": "nfs3", "squash": "none"},
        ]
    )
    root, every, none = (Path(client["mount_point"]) for client in ds.call("status")["clients"].values())
    with pytest.raises(PermissionError):
        (root / "file").touch()
    (none / "open").mkdir()
    os.chmod(none / "open", 0o777)
    (root / "open/by root").touch()
    assert (ds.backing / "open/by root").stat().st_uid == 65534
    assert as_user(OWNER, every, [(every / "open/by owner").touch, (every / "no").touch])[0] is None
    assert (ds.backing / "open/by owner").stat().st_uid == 1234
    assert as_user(ROOT, every, [(every / "open/too").touch]) == [None]
    assert (ds.backing / "open/too").stat().st_uid == 1234


def test_close_to_open(mounted: Callable[..., Any]) -> None:
    ds = mounted(
        [
            {"client": "host1", "profile": "nfs3", "squash": "none"},
            {"client": "host2", "profile": "nfs3", "squash": "none"},
        ]
    )
    one, two = (Path(client["mount_point"]) for client in ds.call("status")["clients"].values())
    (one / "file").write_text("first")
    assert (two / "file").read_text() == "first"
    for text in ("second, which is longer", "third"):
        (one / "file").write_text(text)
        assert (two / "file").read_text() == text


def test_the_first_open_sees_the_size_of_now(mounted: Callable[..., Any]) -> None:
    ds = mounted([{"client": "host1"}, {"client": "host2", "profile": "nfs3", "squash": "none"}])
    one, two = (Path(client["mount_point"]) for client in ds.call("status")["clients"].values())
    (one / "file").write_text("1")
    assert (two / "file").stat().st_size == 1
    (one / "file").write_text("longer")
    assert subprocess.run(["cat", str(two / "file")], capture_output=True, text=True, check=True).stdout == "longer"


def test_late_enospc_at_close(mounted: Callable[..., Any]) -> None:
    ds = mounted([{"client": "host1", "profile": "nfs3", "squash": "none"}])
    path = Path(ds.call("status")["clients"]["host1"]["mount_point"])
    ds.call("resize", size=1 << 20)
    fd = os.open(path / "file", os.O_CREAT | os.O_WRONLY)
    assert os.write(fd, b"x" * (2 << 20)) == 2 << 20
    with refused(OSError, errno=errno.ENOSPC):
        os.close(fd)


def test_whoever_syncs_a_file_hears_that_it_was_too_much(ds: Any) -> None:
    """dd and sync are two programs: the error belongs to the file."""
    ds.call("resize", size=1 << 20, error_at="fsync")
    subprocess.run(["dd", "if=/dev/zero", f"of={ds.path}/file", "bs=64k", "count=32"], check=True, capture_output=True)
    done = subprocess.run(
        ["sync", str(ds.path / "file")], capture_output=True, text=True, check=False, env={**os.environ, "LC_ALL": "C"}
    )
    assert (done.returncode, "No space left" in done.stderr) == (1, True)
    subprocess.run(["sync", str(ds.path / "file")], check=True)


def test_a_crash_on_a_real_mount(ds: Any) -> None:
    ds.call("crash.track")
    safe, lost = ds.path / "safe", ds.path / "lost"
    fd = os.open(safe, os.O_CREAT | os.O_WRONLY)
    os.write(fd, b"synced")
    os.fsync(fd)
    os.write(fd, b" and not")
    lost.write_text("never synced")
    assert safe.read_bytes() == b"synced and not"
    assert {entry["path"] for entry in ds.call("unsynced")["files"]} == {"/safe", "/lost"}
    ds.call("crash")
    with pytest.raises(OSError):  # noqa: PT011
        safe.read_bytes()
    ds.call("restart")
    for forgotten in (lambda: os.write(fd, b"more"), lambda: os.close(fd)):
        with pytest.raises(OSError) as caught:  # noqa: PT011
            forgotten()
        assert caught.value.errno in (errno.ESTALE, errno.EIO)
    assert os.listdir(ds.path) == ["safe"]
    assert safe.read_bytes() == b"synced"


def test_links_into_the_mount_are_not_followed(ds: Any) -> None:
    """The daemon would wait for itself: it serves the paths below the mount point."""
    ds.call("crash.track")
    (ds.path / "target").mkdir()
    (ds.path / "safe").symlink_to(ds.path / "target")
    directory = os.open(ds.path, os.O_RDONLY)
    os.fsync(directory)
    os.close(directory)
    (ds.path / "lost").symlink_to(ds.path / "target")
    ds.call("resize", size=1 << 20)
    ds.call("crash", restart=True)
    assert sorted(os.listdir(ds.path)) == ["safe", "target"]


def test_strict_reads_are_exact(mounted: Callable[..., Any]) -> None:
    ds = mounted([{"client": "host1", "strict": True}])
    path = Path(ds.call("status")["clients"]["host1"]["mount_point"])
    (path / "file").write_bytes(b"x" * 100_000)
    for _unused in range(2):
        ds.call("ledger.mark", name="here")
        subprocess.run(
            ["dd", f"if={path}/file", "of=/dev/null", "bs=4096", "skip=2", "count=3"], check=True, capture_output=True
        )
        assert [(row["offset"], row["size"]) for row in ds.call("ledger.query", op="read", since="here")] == [
            (8192, 4096),
            (12288, 4096),
            (16384, 4096),
        ]


def test_policies_change_under_load(ds: Any) -> None:
    work = (
        f"p={ds.path}/f; i=0; while [ $i -lt 200 ]; do echo $i > $p$i || exit 1; cat $p$i > /dev/null; rm $p$i; "
        "i=$((i+1)); done"
    )
    load = subprocess.Popen(["sh", "-c", work])
    rounds = 0
    while load.poll() is None:
        ds.call("resize", size=1 << 30)
        ds.call("rule.add", id="r", ops=["all"], path="nothing")
        ds.call("crash.track")
        ds.call("schedule.set", latency=0.0001)
        ds.call("rule.del", id="r")
        ds.call("resize", size=None)
        ds.call("schedule.set")
        ds.call("crash.track", enabled=False)
        rounds += 1
    assert load.returncode == 0
    assert rounds
    assert ds.call("status")["bugs"] == 0


def test_a_full_ledger_disk(mounted: Callable[..., Any]) -> None:
    ds = mounted(ledger=Path("/dev/full"))
    (ds.path / "file").write_text("content")
    deadline = time.monotonic() + 20
    while not ds.call("status")["ledger"]["file_error"]:
        assert time.monotonic() < deadline
    (ds.path / "file").write_text("content")
    assert ds.call("ledger.query", op="write")


def test_a_client_cut_off(mounted: Callable[..., Any]) -> None:
    ds = mounted([{"client": "host1"}, {"client": "host2"}])
    one, two = (Path(client["mount_point"]) for client in ds.call("status")["clients"].values())
    (one / "file").write_text("content")
    ds.call("rule.add", ops=["mkdir"], client="host1", action="disconnect")
    with pytest.raises(OSError):  # noqa: PT011
        (one / "dir").mkdir()
    assert (two / "file").read_text() == "content"
    deadline = time.monotonic() + 20
    while "host1" in ds.call("status")["clients"]:
        assert time.monotonic() < deadline


# Lifecycle


def own_mounts(root: Path) -> list[str]:
    return [mount.path for mount in mounts() if mount.is_simulated and mount.path.startswith(str(root))]


def wait_until_unmounted(root: Path) -> None:
    deadline = time.monotonic() + 20
    while own_mounts(root):
        assert time.monotonic() < deadline, own_mounts(root)


def wait_for_exit(pidfd: int) -> None:
    assert select.select([pidfd], [], [], 20)[0]
    os.close(pidfd)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGINT])
def test_no_mount_is_left_behind(mounted: Callable[..., Any], tmpfs: Path, number: signal.Signals) -> None:
    ds = mounted()
    root = ds.path.parent
    (ds.path / "file").write_text("content")
    hanging = None
    if number != signal.SIGINT:
        ds.call("rule.add", ops=["mkdir"], action="hang")
        hanging = subprocess.Popen(["mkdir", str(ds.path / "dir")], stderr=subprocess.DEVNULL)
        ds.call("wait_for", predicate={"parked": 1})
    os.kill(ds.running.record()["pid"], number)
    wait_until_unmounted(root)
    assert hanging is None or hanging.wait(20) != 0
    assert "Traceback" not in ds.log.read_text()


def test_it_ends_with_its_parent(tmpfs: Path) -> None:
    root = tmpfs / "orphan"
    for name in ("backing", "mount"):
        (root / name).mkdir(parents=True)
    code = (
        "import os, sys; sys.path.insert(0, sys.argv[1]); from pathlib import Path; from simulated_datastore.client "
        "import start;root = Path(sys.argv[2]); start('orphan', root / 'backing', [{'mount_point': str(root / "
        "'mount')}], parent=os.getpid(), log=root / 'log');(root / 'mount/file').write_text('x'); os.kill(os.getpid(), "
        "9)"
    )
    harness = Path(__file__).resolve().parents[3]
    assert subprocess.run([sys.executable, "-c", code, str(harness), str(root)], check=False).returncode == -9
    assert (root / "backing/file").read_text() == "x"
    wait_until_unmounted(root)


def test_the_mount_of_another_datastore_stays(mounted: Callable[..., Any]) -> None:
    """A killed daemon leaves its own mounts behind, but no mount of another daemon at the same place."""
    old = mounted([{"client": "host1"}, {"client": "host2"}])
    one, two = (Path(client["mount_point"]) for client in old.call("status")["clients"].values())
    old.call("umount", client="host1")
    new = mounted([{"client": "host1", "mount_point": str(one)}])
    (one / "file").write_text("content")
    record = old.running.record()
    ends = [os.pidfd_open(record["watchdog"]), os.pidfd_open(record["pid"])]
    os.kill(record["watchdog"], signal.SIGKILL)
    os.kill(record["pid"], signal.SIGKILL)
    for end in ends:
        wait_for_exit(end)
    assert own_mounts(two)
    old.running.sweep(record)
    assert not own_mounts(two)
    assert own_mounts(one)
    assert (new.backing / "file").read_text() == "content"


def test_a_name_can_be_taken_again_at_once(tmpfs: Path) -> None:
    root = tmpfs / "again\nand\ragain\x85"
    for name in ("backing", "mount"):
        (root / name).mkdir(parents=True)
    for _unused in range(10):
        running = start(
            "again", root / "backing", [{"mount_point": str(root / "mount")}], parent=os.getpid(), log=root / "log"
        )
        record = running.record()
        daemon = os.pidfd_open(record["pid"])
        os.kill(record["pid"], signal.SIGKILL)
        wait_for_exit(daemon)
    running.end()
    assert not running.runtime.exists()


def test_who_removes_a_datastore_waits_for_who_makes_one(ds: Any) -> None:
    runtime = ds.running.runtime
    record = ds.running.record()
    watchdog = os.pidfd_open(record["watchdog"])
    lock = os.open(runtime.parent, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        daemon = os.pidfd_open(record["pid"])
        os.kill(record["pid"], signal.SIGKILL)
        wait_for_exit(daemon)
        # For the watchdog, a later daemon has the name.
        (runtime / "daemon.json").write_text(json.dumps({**record, "pid": os.getpid()}))
    finally:
        os.close(lock)
    wait_for_exit(watchdog)
    assert runtime.exists() and own_mounts(ds.path.parent)
    (runtime / "daemon.json").write_text(json.dumps(record))


def soon(condition: Callable[[], bool]) -> bool:
    """Wait for *condition*, because other clients see a change after some milliseconds."""
    deadline = time.monotonic() + 10
    while not (found := condition()) and time.monotonic() < deadline:
        os.sched_yield()
    return found


def clients(ds: Any) -> list[Path]:
    return [Path(client["mount_point"]) for client in ds.call("status")["clients"].values()]


def test_close_to_open_while_another_client_writes(mounted: Callable[..., Any]) -> None:
    ds = mounted([{"client": name, "profile": "nfs4.2", "squash": "none"} for name in ("host1", "host2")])
    one, two = clients(ds)
    (one / "file").write_bytes(os.urandom(16 << 20))
    reader = (
        "import os, random, sys\nfor number in range(40):\n fd = os.open(sys.argv[1], os.O_RDONLY)\n"
        " for _ in range(10): os.pread(fd, 1 << 20, random.randrange(15 << 20))\n os.close(fd)"
    )
    readers = [subprocess.Popen([sys.executable, "-c", reader, str(one / "file")]) for _unused in range(4)]
    fd = os.open(two / "file", os.O_WRONLY)
    deadline = time.monotonic() + 60
    while any(each.poll() is None for each in readers):
        os.pwrite(fd, os.urandom(4096), 4096 * (time.monotonic_ns() % 4000))
        assert time.monotonic() < deadline
    os.close(fd)
    assert [each.returncode for each in readers] == [0] * 4


def test_two_clients_append_to_one_file(mounted: Callable[..., Any]) -> None:
    ds = mounted([{"client": "host1"}, {"client": "host2"}])
    fds = [os.open(path / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND) for path in clients(ds)]
    for number in range(5):
        for fd, word in zip(fds, (b"a%d", b"b%d"), strict=True):
            os.write(fd, word % number)
    for fd in fds:
        os.close(fd)
    assert (ds.backing / "log").read_bytes() == b"a0b0a1b1a2b2a3b3a4b4"
    for path in clients(ds):
        assert soon(lambda path=path: (path / "log").read_bytes() == b"a0b0a1b1a2b2a3b3a4b4")  # type: ignore[misc]


def test_other_clients_learn_of_what_a_rename_replaced(mounted: Callable[..., Any]) -> None:
    ds = mounted([{"client": "host1"}, {"client": "host2"}])
    one, two = clients(ds)
    (one / "name").write_text("x")
    os.link(one / "name", one / "other")
    (one / "new").write_text("y")
    assert (two / "other").stat().st_nlink == 2
    os.rename(one / "new", one / "name")
    assert soon(lambda: (two / "other").stat().st_nlink == 1)


def test_clients_see_what_really_happened(mounted: Callable[..., Any]) -> None:
    ds = mounted([{"client": "host1"}, {"client": "host2"}])
    one, two = clients(ds)
    for name in ("gone", "kept"):
        (one / name).touch()
        assert (two / name).exists()
    ds.call("rule.add", ops=["unlink"], when="after")
    with refused(OSError, errno=errno.EIO):
        (one / "gone").unlink()
    assert soon(lambda: not (one / "gone").exists())
    assert soon(lambda: not (two / "gone").exists())
    ds.call("rule.clear")
    ds.call("rule.add", ops=["rename"], action="noop")
    (one / "kept").rename(one / "renamed")
    assert soon(lambda: (one / "kept").exists() and not (one / "renamed").exists())


def test_a_deep_tree(ds: Any) -> None:
    make = (
        "import os, sys\nos.chdir(sys.argv[1])\nfor _ in range(1200):\n os.mkdir('d'); os.chdir('d')\n"
        "open('file', 'w').write('x')"
    )
    subprocess.run([sys.executable, "-c", make, str(ds.path)], check=True)
    assert ds.call("ledger.query", op="write", limit=1)[0]["path"] == "/d" * 1200 + "/file"
    ds.call("crash.track")
    ds.call("crash", restart=True)
    look = (
        "import os, sys\nos.chdir(sys.argv[1])\nfor _ in range(1200): os.chdir('d')\nassert open('file').read() == 'x'"
    )
    subprocess.run([sys.executable, "-c", look, str(ds.path)], check=True)


def test_a_file_that_another_client_has_just_made_isnt_truncated(mounted: Callable[..., Any]) -> None:
    ds = mounted([{"client": "host1"}, {"client": "host2"}])
    one, two = clients(ds)
    ds.backing.chmod(0o1777)
    ds.call("rule.add", ops=["create"], client="host1", action="hang", times=1)
    late = subprocess.Popen(
        [
            "setpriv",
            f"--reuid={OWNER.uid}",
            f"--regid={OWNER.gid}",
            "--clear-groups",
            "sh",
            "-c",
            f"echo mine > {one}/race",
        ],
        stderr=subprocess.PIPE,
        text=True,
    )
    ds.call("wait_for", predicate={"parked": 1})
    (two / "race").write_text("root's")
    (two / "race").chmod(0o600)
    ds.call("rule.clear")
    assert "Permission denied" in late.communicate(timeout=20)[1]
    assert (ds.backing / "race").read_text() == "root's"


def test_what_waits_meets_the_policies_of_when_it_goes_on(ds: Any) -> None:
    def mkdir(name: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(["mkdir", str(ds.path / name)], stderr=subprocess.PIPE, text=True)
        ds.call("wait_for", predicate={"parked": 1})
        return process

    ds.call("rule.add", id="hang", ops=["mkdir"], action="hang")
    ds.call("rule.add", id="error", ops=["mkdir"], error="ENOSPC")
    waiting = mkdir("one")
    ds.call("rule.del", id="error")
    ds.call("rule.del", id="hang")
    assert waiting.communicate(timeout=20)[1] == ""
    ds.call("crash.track")
    ds.call("rule.add", id="hang", ops=["mkdir"], action="hang")
    waiting = mkdir("two")
    ds.call("crash", restart=True)
    ds.call("rule.clear")
    assert "Input/output" in waiting.communicate(timeout=20)[1]
    assert os.listdir(ds.backing) == ["one"]


def test_a_killed_daemon_behind_a_symbolic_link_leaves_no_mount(tmpfs: Path) -> None:
    root = tmpfs / "link"
    for name in ("backing", "mount"):
        (root / name).mkdir(parents=True)
    (root / "symlink").symlink_to("mount")
    running = start(
        "link", root / "backing", [{"mount_point": str(root / "symlink")}], parent=os.getpid(), log=root / "log"
    )
    record = running.record()
    watchdog = os.pidfd_open(record["watchdog"])
    os.kill(record["watchdog"], signal.SIGKILL)
    wait_for_exit(watchdog)
    os.kill(record["pid"], signal.SIGKILL)
    running.end()
    assert not own_mounts(root)


def test_what_is_refused_at_start(ds: Any, tmp_path: Path) -> None:
    def refusal(backing: Path, mount_point: Path, **options: Any) -> str:
        with pytest.raises(SimulatedDatastoreError) as caught:
            start(
                f"refused-{os.getpid()}", backing, [{"mount_point": str(mount_point), **options}], log=tmp_path / "log"
            )
        assert not own_mounts(tmp_path)
        return str(caught.value)

    (tmp_path / "backing/inside").mkdir(parents=True)
    (tmp_path / "mount").mkdir()
    assert "in use" in refusal(tmp_path / "backing", ds.path)
    assert "isn't a directory" in refusal(tmp_path / "backing", tmp_path / "nothing")
    assert "contain each other" in refusal(tmp_path / "backing", tmp_path / "backing/inside")
    assert "can't be opened" in refusal(tmp_path / "nothing", tmp_path / "mount")
    assert "did you mean 'nfs3'" in refusal(tmp_path / "backing", tmp_path / "mount", profile="nfs")
    with refused(
        SimulatedDatastoreError,
        says=f"name: the datastore '{ds.running.name}' is mounted already, give another name or unmount it.",
    ):
        start(ds.running.name, ds.backing, [])


def test_a_bug_is_one_error_and_a_traceback(ds: Any) -> None:
    """A method of the daemon is replaced with a bug, because no bug is known. The daemon must still answer."""
    with refused(SimulatedDatastoreError, names=["method", "'statu'", "'status'"]):
        ds.call("statu")
    with refused(SimulatedDatastoreError, names=["params of ledger.mark", "'nmae'", "'name'"]):
        ds.call("ledger.mark", nmae="x")
    ds.control._socket.sendall(b"not json\n")
    assert b"JSON object" in ds.control._lines.readline()
    assert ds.call("status")["bugs"] == 0

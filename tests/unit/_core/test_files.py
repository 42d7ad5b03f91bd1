# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import contextlib
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core import files
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import (
    FileAccessFailed,
    PathNotAllowed,
    VmstoreError,
)
from refusal import refused


def test_owner_mode_and_attributes_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    path.chmod(0o2640)
    os.chown(path, 1234, 1235)
    os.setxattr(path, "user.label", b"kept")
    files.write_atomic(str(path), b"new")
    found = path.stat()
    assert (path.read_text(), found.st_uid, found.st_gid, os.getxattr(path, "user.label")) == (
        "new",
        1234,
        1235,
        b"kept",
    )
    assert stat.S_IMODE(found.st_mode) == 0o2640


def test_a_new_file_gets_the_mode_whatever_the_umask_is(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        files.write_atomic(str(tmp_path / "file"), b"", mode=0o644)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o644


def test_a_link_stays_and_its_target_is_written(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "file").write_text("old")
    files.write_atomic(str(tmp_path / "link"), b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "file").read_text() == "new"


def test_a_failed_rename_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "file").mkdir()  # rename(2) of a file over a directory fails
    with refused(FileAccessFailed, says=f"Could not write {tmp_path}/file: it is not a regular file."):
        files.write_atomic(str(tmp_path / "file"), b"new")
    assert os.listdir(tmp_path) == ["file"]


FULL_DISK = """
mount -t tmpfs -o size=64k tmpfs "$1"
echo old > "$1/file"
head -c 1M /dev/zero > "$1/filler" 2> /dev/null
"$2" -c '
import sys
from ansible_collections.granary.vmstore.plugins.module_utils._core.files import write_atomic
try:
    write_atomic(sys.argv[1], b"x" * 8192)
except Exception as error:
    print(type(error).__name__, error)
' "$1/file"
cat "$1/file"; ls -A "$1"
"""


def test_a_full_disk_is_an_error_and_the_old_file_stays(tmp_path: Path) -> None:
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", FULL_DISK, "sh", str(tmp_path), sys.executable],
        capture_output=True,
        text=True,
        check=True,
    )
    message, content, *names = done.stdout.splitlines()
    assert message == f"NoSpace Could not write {tmp_path}/file: No space left on device. Nothing was changed."
    assert (content, names) == ("old", ["file", "filler"])


def test_removing_twice_says_what_it_found(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert [files.remove_durably(str(tmp_path / "file")) for _time in range(2)] == [True, False]


def test_reading_keeps_line_endings_and_odd_bytes(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"a\r\n\xff\n")
    assert files.read_text(str(tmp_path / "file")).encode("utf-8", "surrogateescape") == b"a\r\n\xff\n"
    assert files.read_text(str(tmp_path / "none")) == ""


def test_the_file_is_durable_before_it_has_its_name_and_the_name_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    for name in ("fsync", "rename"):
        real = getattr(os, name)
        monkeypatch.setattr(
            os, name, lambda *given, name=name, real=real, **named: (done.append(name), real(*given, **named))
        )
    files.write_atomic(str(tmp_path / "file"), b"new")
    assert done == ["fsync", "rename", "fsync"]


def theirs(path: Path) -> Path:
    owner = path.parent.stat().st_uid
    os.chown(path, owner, owner, follow_symlinks=False)
    return path


def test_a_link_of_another_user_leads_to_no_file_of_root(tmp_path: Path, tenant: Path) -> None:
    (victim := tmp_path / "victim").write_text("root's own")
    (link := tenant / "seed.iso").symlink_to(victim)
    theirs(link)
    (around := tenant / "directory").symlink_to(tmp_path)
    theirs(around)
    for path in (link, around / "victim", around / "new"):
        with refused(PathNotAllowed, option="path", value=str(path)):
            files.write_atomic(str(path), b"overwritten")
    with refused(
        PathNotAllowed,
        says=f"path: '{around}' is not accepted: it leads through a symbolic link that another user "
        "can change to a directory that isn't that user's.",
    ):
        files.remove_durably(str(around / "victim"))
    assert (os.listdir(tmp_path), victim.read_text()) == (["victim"], "root's own")
    assert sorted(os.listdir(tenant)) == ["directory", "seed.iso"]


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_is_no_regular_file_is_not_replaced(tenant: Path, make: Callable[[Path], None]) -> None:
    make(theirs_path := tenant / "seed.iso")
    with refused(FileAccessFailed, names=[theirs_path]):
        files.write_atomic(str(theirs_path), b"new")
    assert os.listdir(tenant) == ["seed.iso"]


def test_who_changes_names_all_the_time_leads_no_write_elsewhere(tmp_path: Path, tenant: Path, swapping) -> None:
    (victim := tmp_path / "victim").write_text("root's own")
    theirs_file = tenant / "seed.iso"
    theirs_file.write_text("old")
    theirs(theirs_file)
    (link := tenant / "link").symlink_to(victim)
    theirs(link)
    (directory := tenant / "directory").mkdir()
    theirs(directory)
    (away := tenant / "away").symlink_to(tmp_path)
    theirs(away)
    for name, other, path in ((theirs_file, link, theirs_file), (directory, away, directory / "victim")):
        with swapping(name, other):
            for _number in range(200):
                with contextlib.suppress(VmstoreError):
                    files.write_atomic(str(path), b"overwritten")
                if name == directory:
                    with contextlib.suppress(VmstoreError):
                        files.remove_durably(str(path))
    assert (os.listdir(tmp_path), victim.read_text()) == (["victim"], "root's own")
    assert victim.stat().st_uid == 0


KILLED = """
import os, signal, sys
from ansible_collections.granary.vmstore.plugins.module_utils._core import files
os.fsync = lambda descriptor: (print(flush=True), os.kill(os.getpid(), int(sys.argv[2])), signal.pause())
files.write_atomic(sys.argv[1], b"new")
"""


def parts(directory: Path) -> list[str]:
    return [name for name in os.listdir(directory) if name.endswith(".part")]


@pytest.mark.parametrize("name", ["fstab", "x" * 255])
def test_what_a_killed_program_left_is_removed_by_the_next_and_what_a_running_one_writes_stays(
    tmp_path: Path, name: str
) -> None:
    path = tmp_path / name
    assert (
        subprocess.run([sys.executable, "-c", KILLED, path, "9"], check=False, stdout=subprocess.DEVNULL).returncode
        == -9
    )
    (left,) = parts(tmp_path)
    for other in (f".{name}.0123456"[:255], f"{name[:200]}.part", f".other.{'a' * 32}.part"):
        (tmp_path / other).touch()
    with subprocess.Popen([sys.executable, "-c", KILLED, path, "0"], stdout=subprocess.PIPE) as running:
        assert running.stdout and running.stdout.readline() == b"\n"
        (held,) = set(parts(tmp_path)) - {f"{name[:200]}.part", f".other.{'a' * 32}.part"}
        assert held != left
        files.write_atomic(str(path), b"mine")
        assert held in parts(tmp_path)
        running.kill()
    files.write_atomic(str(path), b"mine")
    assert sorted(parts(tmp_path)) == sorted([f"{name[:200]}.part", f".other.{'a' * 32}.part"])
    assert path.read_bytes() == b"mine"


def test_many_writers_at_once_never_remove_what_another_writes(tmp_path: Path) -> None:
    script = (
        "import sys\nfrom ansible_collections.granary.vmstore.plugins.module_utils._core.files import write_atomic\n"
    )
    script += "for number in range(100): write_atomic(sys.argv[1], b'x' * 100)\n"
    running = [subprocess.Popen([sys.executable, "-c", script, tmp_path / "file"]) for _process in range(4)]
    assert [process.wait() for process in running] == [0] * 4
    assert os.listdir(tmp_path) == ["file"]

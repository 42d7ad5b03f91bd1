# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""The losses of a crash, and the durable changes, without a mount."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable

import pytest
from sd_model import Model, error_of


def test_a_crash_loses_what_was_not_synced(model: Model) -> None:
    model.create("kept", b"kept")
    model.mkdir("dir")
    model.create("replaced", b"old")
    durability = model.datastore.durability
    durability.track()
    before = model.tree()
    handle = model.open("kept")
    model.write(handle, 2, b"PT and longer")
    model.setattr("replaced", size=1)
    model.create("dir/new", b"new")
    model.rename("kept", "moved")
    model.rename("dir/new", "replaced")
    model.rmdir("dir")
    model.mkdir("other")
    model.rename("other", "dir")
    model.create("dir/below", b"x")
    assert sum(file["bytes"] for file in durability.unsynced()["files"]) == 13 + 3 + 1
    model.datastore.crash(names="strict")
    assert model.tree() == before
    assert error_of(lambda: model.write(handle, 0, b"x")) == "EIO"
    model.datastore.restart()
    assert error_of(lambda: model.write(handle, 0, b"x")) == "ESTALE"
    assert model.read(model.open("kept"), 0, 10) == b"kept"


def test_fsync_keeps_content_and_in_a_journaling_file_system_the_name(model: Model) -> None:
    model.datastore.durability.track()
    handle = model.create("file", b"safe")
    model.fsync(handle)
    model.write(handle, 4, b" lost")
    model.datastore.crash(restart=True)
    assert model.tree() == {"file": b"safe"}
    handle = model.create("strict", b"safe")
    model.fsync(handle)
    model.datastore.crash(names="strict", restart=True)
    assert model.tree() == {"file": b"safe"}
    handle = model.create("strict", b"safe")
    model.fsync(handle)
    model.fsyncdir("")
    model.datastore.crash(names="strict", restart=True)
    assert model.tree() == {"file": b"safe", "strict": b"safe"}


def test_every_crash_state_of_the_classic_replacement(make: Callable[..., Model]) -> None:
    """Write a new file and rename it over the old one. Only without fsync a state has neither of the contents."""

    def outcomes(sync: bool, names: str) -> set[bytes]:
        found = set()
        number = 0
        while True:
            model = make()
            model.create("config", b"old content")
            model.datastore.durability.track()
            handle = model.create("config.new", b"new content")
            if sync:
                model.fsync(handle)
            model.rename("config.new", "config")
            if number >= len(model.datastore.durability.states(names=names)):
                return found
            model.datastore.crash(state=number, names=names, restart=True)
            found.add(model.tree()["config"] or b"")
            number += 1

    assert outcomes(True, "ordered") == {b"old content", b"new content"}
    # Not renamed; or renamed with any size, with data or without.
    assert outcomes(False, "ordered") == {b"old content", b"new content", b"", bytes(11)}


def test_a_failed_fsync_that_forgets(model: Model) -> None:
    model.datastore.durability.track()
    handle = model.create("file", b"first")
    model.fsync(handle)
    model.write(handle, 0, b"FIRST")
    model.datastore.rules.add(ops=["fsync"], dirty="forget", times=1)
    assert error_of(lambda: model.fsync(handle)) == "EIO"
    # The second fsync succeeds, but the data isn't on the disk.
    model.fsync(handle)
    model.datastore.crash(restart=True)
    assert model.tree() == {"file": b"first"}


def test_a_rule_that_crashes(model: Model) -> None:
    model.datastore.durability.track()
    model.datastore.rules.add(ops=["write"], nth=2, action="crash", crash={"restart": False})
    handle = model.create("file")
    model.fsync(handle)
    model.write(handle, 0, b"lost")
    assert error_of(lambda: model.write(handle, 4, b"never")) == "EIO"
    assert error_of(lambda: model.open("file")) == "EIO"
    model.datastore.restart()
    assert model.tree() == {"file": b""}


def test_a_crash_loses_attributes_that_were_not_synced(model: Model) -> None:
    def look(name: str) -> tuple[str, int, int, int, list[str]]:
        status = os.lstat(model.root / name)
        return (
            stat.filemode(status.st_mode),
            status.st_uid,
            status.st_gid,
            status.st_mtime_ns,
            os.listxattr(model.root / name, follow_symlinks=False),
        )

    model.mkdir("dir")
    handle = model.create("file", b"content")
    model.create("tool")
    os.symlink("file", model.root / "symlink")
    os.chmod(model.root / "tool", 0o4755)
    durability = model.datastore.durability
    before = {name: look(name) for name in ("dir", "file", "symlink", "tool")}

    def change() -> None:
        model.setattr("file", mode=0o600)
        model.setattr("file", mtime_ns=1_000_000_007, atime_ns=5)
        model.setxattr("file", b"user.note", b"x")
        model.setattr("tool", uid=1000)
        model.setattr("dir", mode=0o1777, gid=7)
        model.setattr("symlink", uid=1000)

    for names in ("ordered", "strict"):
        durability.track()
        change()
        assert {name: look(name) for name in before} != before
        assert {entry["path"] for entry in durability.unsynced()["attributes"]} == {
            "/file",
            "/tool",
            "/dir",
            "/symlink",
        }
        model.datastore.crash(names=names, restart=True)
        assert {name: look(name) for name in before} == before
    durability.track()
    change()
    handle = model.open("file")
    model.fsync(handle, data_only=True)
    model.setattr("dir", mode=0o700)
    model.datastore.crash(names="ordered", restart=True)
    assert look("file")[0] == "-rw-------" and look("dir")[0] == "drwxrwxrwt"
    durability.track()
    model.setattr("file", mode=0o640)
    model.fsync(model.open("file"))
    model.setattr("tool", mode=0o700)
    model.datastore.crash(names="strict", restart=True)
    assert look("file")[0] == "-rw-r-----" and look("tool")[0] == "-rwxr-xr-x"


def test_a_removed_file_comes_back_with_its_attributes(model: Model) -> None:
    model.create("file", b"content")
    model.setxattr("file", b"user.note", b"x")
    model.setattr("file", mode=0o640)
    model.datastore.durability.track()
    model.unlink("file")
    model.datastore.crash(names="ordered", restart=True)
    assert model.tree() == {"file": b"content"}
    assert os.getxattr(model.root / "file", "user.note") == b"x"
    assert stat.S_IMODE(os.stat(model.root / "file").st_mode) == 0o640


def test_a_rule_that_crashes_when_nothing_is_tracked_any_more(model: Model, caplog: pytest.LogCaptureFixture) -> None:
    model.datastore.durability.track()
    model.datastore.rules.add(ops=["mkdir"], action="crash")
    model.datastore.durability.track(False)
    assert error_of(lambda: model.mkdir("dir")) == "EIO"
    assert error_of(lambda: model.create("file")) == "EIO"
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_network_clients_commit_by_close(make: Callable[..., Model]) -> None:
    model = make(profile="nfs3")
    model.datastore.durability.track()
    model.close(model.create("closed", b"safe"))
    model.create("open", b"lost")
    model.datastore.crash(restart=True, names="strict")
    assert model.tree() == {"closed": b"safe", "open": b""}


def test_holes_come_back(model: Model) -> None:
    model.setattr((model.create("sparse"), "sparse")[1], size=1 << 20)
    model.datastore.durability.track()
    handle = model.open("sparse")
    model.write(handle, 0, b"x" * (1 << 20))
    model.datastore.crash(restart=True)
    assert (model.root / "sparse").stat().st_size == 1 << 20
    assert (model.root / "sparse").read_bytes().count(0) == 1 << 20
    assert (model.root / "sparse").stat().st_blocks == 0


def test_a_removed_file_does_not_take_the_place_of_a_synced_one(make: Callable[..., Model]) -> None:
    def crash(names: str, renamed: bool) -> dict[str, bytes | None]:
        model = make()
        model.mkdir("A")
        model.mkdir("B")
        durability = model.datastore.durability
        durability.track()
        model.create("A/x", b"one")
        durability.sync()
        model.rename("A/x", "B/x")
        model.unlink("B/x")
        handle = model.create("B/x", b"two")
        model.fsync(handle)
        model.fsyncdir("B")
        if renamed:
            model.rename("B/x", "B/y")
            model.fsync(handle)
        if names == "ordered":
            assert [(state["survivors"], state["lost"]) for state in durability.states(names=names)] == [([], [])]
        assert (durability.states(names=names)[0]["lost"] == []) == (names != "strict")
        model.datastore.crash(names=names, keep="none", restart=True)
        return model.tree()

    for names in ("none", "ordered"):
        assert crash(names, renamed=True) == {"A": None, "B": None, "B/y": b"two"}
    # Directory A was not fsynced.
    assert crash("strict", renamed=False) == {"A": None, "A/x": b"one", "B": None, "B/x": b"two"}


@pytest.mark.parametrize(("op", "profile"), [("fsync", "local"), ("fsyncdir", "local"), ("close", "nfs3")])
def test_a_lying_sync_makes_nothing_durable(make: Callable[..., Model], op: str, profile: str) -> None:
    model = make(profile=profile)
    model.create("file", b"old")
    durability = model.datastore.durability
    durability.track()
    handle = model.open("file")
    model.write(handle, 0, b"new")
    model.rename("file", "renamed")
    before = durability.unsynced()
    model.datastore.rules.add(ops=[op], action="noop")
    {
        "fsync": lambda: model.fsync(handle),
        "fsyncdir": lambda: model.fsyncdir(""),
        "close": lambda: model.close(handle),
    }[op]()
    assert durability.unsynced() == before
    model.datastore.crash(restart=True)
    assert model.tree() == {"renamed" if profile == "nfs3" else "file": b"old"}


def test_what_a_failed_fsync_forgot_outlasts_a_sync(model: Model) -> None:
    durability = model.datastore.durability
    durability.track()
    handle = model.create("file", b"first")
    model.fsync(handle)
    model.write(handle, 0, b"FIRST")
    model.datastore.rules.add(ops=["fsync"], dirty="forget", times=1)
    assert error_of(lambda: model.fsync(handle)) == "EIO"
    model.write(handle, 4, b"t and second")
    model.create("other", b"other")
    durability.sync()
    model.write(handle, 0, b"lost")
    model.datastore.crash(restart=True)
    assert model.tree() == {"file": b"first and second", "other": b"other"}


def test_too_many_files_count_as_written_back_and_that_is_told(model: Model, caplog: pytest.LogCaptureFixture) -> None:
    durability = model.datastore.durability
    durability.most_files = 20
    durability.track()
    handle = model.create("forgotten", b"first")
    model.fsync(handle)
    model.write(handle, 0, b"FIRST")
    model.datastore.rules.add(ops=["fsync"], dirty="forget", times=1)
    assert error_of(lambda: model.fsync(handle)) == "EIO"
    for number in range(15):
        model.create(f"file{number}", b"x")
    assert durability.unsynced()["written_back"] == 0
    assert not caplog.records
    for number in range(15, 100):
        model.create(f"file{number}", b"x")
    unsynced = durability.unsynced()
    # 101 names, including the first file's, and 100 contents.
    assert unsynced["written_back"] + len(unsynced["files"]) + len(unsynced["names"]) == 201
    assert unsynced["written_back"] > 100
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    model.datastore.crash(restart=True)
    assert model.tree()["forgotten"] == b"first"
    assert len(model.tree()) == 101 - len(unsynced["names"])

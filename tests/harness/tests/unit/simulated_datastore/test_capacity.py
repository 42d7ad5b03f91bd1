# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""Capacity and quotas, without a mount."""

from __future__ import annotations

import contextlib
import errno
import os
import random
from collections.abc import Callable
from typing import Any

import pytest
import trio
import trio.testing
from sd_model import BLOCK, Caller, Model, error_of, refusal
from simulated_datastore.mount import Handle


def test_capacity_is_exact_to_the_block(model: Model) -> None:
    handle = model.create("file", b"x" * 5000)
    capacity = model.datastore.capacity
    used = capacity.set(size=1 << 30)["used"]
    capacity.set(size=used + 2 * BLOCK)
    # The rest of the second block costs nothing.
    assert model.write(handle, 5000, b"y" * 3192) == 3192
    assert model.write(handle, 8192, b"z" * 3 * BLOCK) == 2 * BLOCK
    assert error_of(lambda: model.write(handle, 8192 + 2 * BLOCK, b"z")) == "ENOSPC"
    # Overwriting costs nothing.
    assert model.write(handle, 0, b"a" * 4 * BLOCK) == 4 * BLOCK
    assert capacity.status()["used"] == used + 2 * BLOCK
    model.setattr("file", size=BLOCK)
    assert capacity.status()["used"] == used - BLOCK
    assert refusal(lambda: capacity.set(size=used - 2 * BLOCK)).startswith("size: ")


def test_holes_links_and_nameless_files_count_as_they_should(model: Model) -> None:
    capacity = model.datastore.capacity
    start = capacity.set(size=1 << 30)
    handle = model.create("file")
    model.write(handle, 1 << 20, b"x")
    model.link("file", "hard")
    assert (capacity.status()["used"] - start["used"], capacity.status()["inodes_used"] - start["inodes_used"]) == (
        BLOCK,
        1,
    )
    model.unlink("file")
    assert capacity.status()["used"] - start["used"] == BLOCK
    model.unlink("hard")
    assert capacity.status()["used"] - start["used"] == BLOCK
    model.write(handle, 0, b"still")
    assert capacity.status()["used"] - start["used"] == 2 * BLOCK
    model.close(handle)
    assert (capacity.status()["used"], capacity.status()["inodes_used"]) == (start["used"], start["inodes_used"])


def test_what_was_counted_step_by_step_is_what_a_recount_finds(model: Model) -> None:
    capacity = model.datastore.capacity
    capacity.set(size=1 << 30, quotas=[{"uid": 1001, "size": 1 << 29}, {"path": "sub", "size": 1 << 29}])
    model.mkdir("sub")
    model.mkdir("dir")
    for number in range(40):
        model.close(model.create(f"{'sub' if number % 2 else 'dir'}/{number}", b"x" * number * 1000))
    for number in range(0, 40, 3):
        model.unlink(f"{'sub' if number % 2 else 'dir'}/{number}")
    model.rename("dir/2", "dir/4")
    model.setattr("sub/1", uid=1001, gid=1001)
    model.setattr("dir/8", uid=1001)
    model.setattr("dir/10", size=100)
    before = capacity.status()
    capacity.recount()
    assert capacity.status() == before
    assert before["quotas"][0]["inodes_used"] == 2


def test_inodes_and_quotas(model: Model) -> None:
    capacity = model.datastore.capacity
    used = capacity.set(size=1 << 30)["inodes_used"]
    capacity.set(inodes=used + 1)
    model.mkdir("dir")
    assert error_of(lambda: model.create("file")) == "ENOSPC"
    capacity.set(inodes=None, quotas=[{"path": "dir", "size": 8 * BLOCK}, {"uid": 1001, "inodes": 1}])
    handle = model.create("dir/file")
    room = 8 * BLOCK - capacity.status()["quotas"][0]["used"]
    assert model.write(handle, 0, b"x" * 9 * BLOCK) == room
    assert error_of(lambda: model.write(handle, room, b"x")) == "EDQUOT"
    model.create("elsewhere", b"x" * 9 * BLOCK)
    assert error_of(lambda: model.rename("elsewhere", "dir/moved")) == "EXDEV"
    model.caller = Caller(1001, 1001)
    model.create("one")
    assert error_of(lambda: model.create("two")) == "EDQUOT"


def test_an_append_is_limited_where_it_is_made(model: Model) -> None:
    """The first of two clients doesn't know the new end of the file."""
    other = model.add("host2")
    model.close(model.create("log", b"kept "))
    handle = model.open("log", os.O_RDWR | os.O_APPEND)
    ino = model.run(lambda: model.ino("log"))
    theirs = model.run(lambda: other.open(ino, os.O_RDWR, model.caller))
    model.run(lambda: other.write(theirs.number, 5, b"theirs "))
    model.datastore.capacity.set(max_file=14)
    assert model.write(handle, 5, b"ours") == 2
    assert model.tree() == {"log": b"kept theirs ou"}


def test_the_largest_file(model: Model) -> None:
    model.datastore.capacity.set(max_file=10_000)
    handle = model.create("file")
    assert model.write(handle, 9_000, b"x" * 5_000) == 1_000
    assert error_of(lambda: model.write(handle, 10_000, b"x")) == "EFBIG"
    assert error_of(lambda: model.setattr("file", size=10_001)) == "EFBIG"


@pytest.mark.parametrize(("at", "profile"), [("close", "nfs3"), ("close", "local"), ("fsync", "local")])
def test_late_errors(make: Callable[..., Model], at: str, profile: str) -> None:
    model = make(profile=profile)
    handle = model.create("file")
    capacity = model.datastore.capacity
    capacity.set(size=capacity.set(size=1 << 30)["used"] + BLOCK, error_at=None if profile == "nfs3" else at)
    assert model.write(handle, 0, b"x" * 3 * BLOCK) == 3 * BLOCK

    def close() -> None:
        model.run(lambda: model.mount.close(handle.number))

    if at == "fsync":
        close()
    else:
        # Each close reports the error until an fsync does.
        assert error_of(close) == "ENOSPC"
        assert error_of(close) == "ENOSPC"
    assert error_of(lambda: model.fsync(handle)) == "ENOSPC"
    # The error was reported once.
    model.fsync(handle)
    close()
    assert model.tree()["file"] == b"x" * BLOCK


def test_a_late_error_belongs_to_the_file(model: Model) -> None:
    """Report like Linux since 4.13: each open descriptor gets the error once, and a later one an unreported error."""
    capacity = model.datastore.capacity
    capacity.set(size=capacity.set(size=1 << 30)["used"] + BLOCK, error_at="fsync")
    writer = model.create("file")
    reader = model.open("file", os.O_RDONLY)
    other = model.create("other")
    model.write(writer, 0, b"x" * 3 * BLOCK)
    model.close(writer)
    late = model.open("file", os.O_RDONLY)
    model.fsync(other)
    assert error_of(lambda: model.fsync(late)) == "ENOSPC"
    model.fsync(late)
    model.fsync(model.open("file"))
    assert error_of(lambda: model.fsync(reader)) == "ENOSPC"
    model.fsync(reader)
    # A new error is reported again.
    again = model.open("file")
    model.write(again, 8 * BLOCK, b"x")
    for handle in (reader, late, again):
        assert error_of(lambda handle=handle: model.fsync(handle)) == "ENOSPC"
        model.fsync(handle)
    # The next descriptor gets an unreported error.
    model.write(again, 8 * BLOCK, b"x")
    model.write(again, 9 * BLOCK, b"x")
    assert [error_of(lambda: model.fsync(model.open("file")))] == ["ENOSPC"]
    model.fsync(model.open("file"))


def test_a_late_error_belongs_to_a_client(model: Model) -> None:
    capacity = model.datastore.capacity
    capacity.set(size=capacity.set(size=1 << 30)["used"] + BLOCK, error_at="fsync")
    handle = model.create("file")
    model.write(handle, 0, b"x" * 3 * BLOCK)
    host2 = model.add("host2")
    other = model.run(lambda: host2.open(handle.node.ino, os.O_RDWR, model.caller))
    model.run(lambda: host2.fsync(other.number, False))
    assert error_of(lambda: model.fsync(handle)) == "ENOSPC"
    # A forgotten file loses its unreported errors.
    model.write(handle, 0, b"x" * 3 * BLOCK)
    model.close(handle)
    model.mount.forget(handle.node.ino, model.mount.lookups[handle.node.ino])
    model.fsync(model.open("file"))
    assert not model.mount.mappings


def test_an_fsync_that_forgets_tells_every_descriptor_once(model: Model) -> None:
    one = model.create("file", b"content")
    two = model.open("file")
    model.datastore.rules.add(ops=["fsync"], dirty="forget", times=1)
    assert error_of(lambda: model.fsync(one)) == "EIO"
    model.fsync(model.open("file"))
    model.fsync(one)
    assert error_of(lambda: model.fsync(two)) == "EIO"
    model.fsync(two)


def test_who_still_knows_a_file_that_is_gone_looks_it_up_again(model: Model) -> None:
    capacity = model.datastore.capacity
    start = capacity.set(size=1 << 30)["used"]
    model.close(model.create("file", b"x" * 256 * BLOCK))
    host2 = model.add("host2", "nfs4.2")
    ino = model.run(lambda: host2.lookup(model.datastore.nodes.root.ino, b"file", model.caller)).found.ino
    model.unlink("file")
    assert capacity.status()["used"] == start
    assert error_of(lambda: model.run(lambda: host2.setattr(ino, {"size": 0}, None, model.caller))) == "ESTALE"
    assert error_of(lambda: model.run(lambda: host2.open(ino, os.O_RDWR | os.O_TRUNC, model.caller))) == "ESTALE"
    assert error_of(lambda: model.run(lambda: host2.open(ino, os.O_RDONLY, model.caller))) == "ESTALE"
    model.run(lambda: host2.setattr(ino, {"uid": 1001}, None, model.caller))
    assert capacity.status()["used"] == start


def test_a_nameless_file_that_is_opened_again_counts_again(model: Model) -> None:
    capacity = model.datastore.capacity
    start = capacity.set(size=1 << 30)["used"]
    model.close(model.create("file", b"x" * 4 * BLOCK))
    ino = model.run(lambda: model.ino("file"))
    model.unlink("file")
    assert capacity.status()["used"] == start
    # Like a descriptor with O_PATH.
    handle = model.run(lambda: model.mount.open(ino, os.O_RDWR, model.caller))
    assert capacity.status()["used"] == start + 4 * BLOCK
    model.write(handle, 4 * BLOCK, b"x")
    assert capacity.status()["used"] == start + 5 * BLOCK
    model.close(handle)
    assert capacity.status()["used"] == start


def test_a_nameless_file_goes_when_the_server_knows_no_handle_of_it_any_more(model: Model) -> None:
    capacity = model.datastore.capacity
    start = capacity.set(size=1 << 30)["used"]
    handle = model.create("file", b"x" * 4 * BLOCK)
    host2 = model.add("host2")
    other = model.run(lambda: host2.open(handle.node.ino, os.O_RDWR, model.caller))
    model.unlink("file")
    model.datastore.state.set("stale", client="host1")
    assert capacity.status()["used"] == start + 4 * BLOCK
    model.datastore.state.set("stale", client="host2")
    model.datastore.state.set("up")
    assert capacity.status()["used"] == start
    for mount, number in ((model.mount, handle.number), (host2, other.number)):
        model.run(lambda mount=mount, number=number: mount.release(number))
    assert capacity.status()["used"] == start


def test_a_file_that_was_nameless_before_there_were_limits_counts_until_it_is_closed(model: Model) -> None:
    capacity = model.datastore.capacity
    start = capacity.set(size=1 << 30)["used"]
    capacity.set(size=None)
    handle = model.create("file", b"x" * 4 * BLOCK)
    model.unlink("file")
    assert capacity.set(size=1 << 30)["used"] == start + 4 * BLOCK
    model.write(handle, 4 * BLOCK, b"x")
    assert capacity.status()["used"] == start + 5 * BLOCK
    model.close(handle)
    assert capacity.status()["used"] == start


@pytest.mark.parametrize("wait", ["hang", "latency"])
@pytest.mark.parametrize("before", [None, 1 << 30])
def test_what_waits_meets_the_limits_of_when_it_goes_on(model: Model, wait: str, before: int | None) -> None:
    capacity, write = model.datastore.capacity, model.mount.write
    handles = [model.create(name) for name in "abc"]
    start = capacity.set(size=1 << 30)["used"]
    capacity.set(size=before)
    if wait == "hang":
        model.datastore.rules.add(id="hang", ops=["write"], action="hang")
    else:
        model.datastore.schedule.set(latency={"write": 1})

    async def work() -> None:
        written: list[int | str] = []

        async def one(number: int) -> None:
            try:
                written.append(await write(number, 0, b"x" * 2 * BLOCK))
            except OSError as error:
                written.append(errno.errorcode[error.errno])

        async with trio.open_nursery() as nursery:
            for handle in handles:
                nursery.start_soon(one, handle.number)
            await trio.testing.wait_all_tasks_blocked()
            capacity.set(size=start + 8 * BLOCK)
            capacity.set(size=start + 3 * BLOCK)
            if wait == "hang":
                model.datastore.rules.delete("hang")
            model.clock.advance(1)
        assert sorted(written, key=str) == [BLOCK, 2 * BLOCK, "ENOSPC"]

    model.run(work)
    assert capacity.status()["used"] == start + 3 * BLOCK


@pytest.mark.parametrize("op", ["statfs", "write"])
def test_what_waits_when_the_limits_go_isnt_limited(model: Model, op: str) -> None:
    capacity = model.datastore.capacity
    handle = model.create("file")
    capacity.set(size=capacity.set(size=1 << 30)["used"] + BLOCK)
    model.datastore.rules.add(id="hang", ops=[op], action="hang")

    async def work() -> None:
        async with trio.open_nursery() as nursery:
            if op == "write":
                nursery.start_soon(model.mount.write, handle.number, 0, b"x" * 2 * BLOCK)
            else:
                nursery.start_soon(model.mount.statfs, model.caller)
            await trio.testing.wait_all_tasks_blocked()
            capacity.set(size=None)
            model.datastore.rules.delete("hang")

    model.run(work)
    assert model.datastore.ledger.query()[-1]["error"] == 0
    assert model.tree()["file"] == (b"x" * 2 * BLOCK if op == "write" else b"")


def test_a_directory_above_a_quota_stays_where_it_is(model: Model) -> None:
    capacity = model.datastore.capacity
    for name in ("a", "a/b", "x", "x/b"):
        model.mkdir(name)
    capacity.set(quotas=[{"path": "a/b", "size": 1 << 20}])
    assert error_of(lambda: model.rename("a", "c")) == "EXDEV"
    model.rename("x", "y")
    capacity.set(quotas=[{"path": "new/b", "size": 1 << 20}])
    assert error_of(lambda: model.rename("y", "new")) == "EXDEV"
    model.rename("a", "c")


def test_what_is_overwritten_takes_no_space_of_others_while_it_waits(model: Model) -> None:
    capacity, write = model.datastore.capacity, model.mount.write
    old, new = model.create("old", b"x" * 4 * BLOCK), model.create("new")
    capacity.set(size=capacity.set(size=1 << 30)["used"] + 4 * BLOCK)
    model.datastore.schedule.set(latency={"write": 1})

    async def work() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(write, old.number, 0, b"y" * 4 * BLOCK)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(write, new.number, 0, b"z" * 4 * BLOCK)
            await trio.testing.wait_all_tasks_blocked()
            model.clock.advance(1)

    model.run(work)
    assert model.tree() == {"old": b"y" * 4 * BLOCK, "new": b"z" * 4 * BLOCK}


def test_what_was_done_counts_also_when_a_rule_makes_an_error_of_it(model: Model) -> None:
    capacity = model.datastore.capacity
    capacity.set(size=1 << 30)
    model.close(model.create("old", b"x" * BLOCK))
    model.datastore.rules.add(ops=["create", "unlink"], when="after")
    assert error_of(lambda: model.create("new")) == "EIO"
    assert error_of(lambda: model.unlink("old")) == "EIO"
    assert counted(model) == census(model)[:1]


def census(model: Model) -> list[tuple[int, int]]:
    """Return bytes and inodes in the backing directory and of nameless open files: of all, of uid 1001, and below d."""
    found = {}
    for path in (model.root, *model.root.rglob("*")):
        found[path.lstat().st_ino] = (path.lstat(), f"/{path.relative_to(model.root)}")
    for mount in model.datastore.mounts.values():
        for handle in mount.handles.values():
            if not handle.lost:
                found.setdefault(os.fstat(handle.fd).st_ino, (os.fstat(handle.fd), os.fsdecode(handle.node.path)))
    parts = [
        [status for status, path in found.values() if fits(status, path)]
        for fits in (
            lambda *_unused: True,
            lambda status, _path: status.st_uid == 1001,
            lambda _status, path: path == "/d" or path.startswith("/d/"),
        )
    ]
    return [(sum(status.st_blocks for status in part) * 512, len(part)) for part in parts]


def counted(model: Model) -> list[tuple[int, int]]:
    status = model.datastore.capacity.status()
    return [(part["used"], part["inodes_used"]) for part in (status, *status["quotas"])]


# The complexity is the sum of the operations, small functions that share the dice, the handles and the known files.
@pytest.mark.parametrize("seed", range(3))
def test_whatever_several_clients_do_what_is_counted_is_what_is_there(model: Model, seed: int) -> None:  # noqa: C901
    dice = random.Random(seed)  # noqa: S311
    mounts = [model.mount, model.add("host2", "nfs4.2"), model.add("host3", "nfs3")]
    limits = {"size": 1 << 30, "quotas": [{"uid": 1001, "size": 1 << 29}, {"path": "d", "size": 1 << 29}]}
    capacity = model.datastore.capacity
    capacity.set(**limits)
    handles: list[Handle] = []
    known = [model.datastore.nodes.root.ino]

    def path() -> str:
        return dice.choice(["", "d/", "d/e/", "f/"]) + dice.choice("abcd")

    def node() -> int:
        """Return the inode number of a file that the client knows, or has known, by a name."""
        if dice.random() < 0.3:
            return dice.choice(known)
        known.append(model.run(lambda: model.ino(path())))
        return known[-1]

    def create() -> None:
        parent, name = path().rpartition("/")[::2]
        flags = os.O_RDWR | dice.choice([0, os.O_TRUNC])

        async def work() -> Handle:
            return (
                await model.mount.create(
                    await model.ino(parent), name.encode(), 0o644, flags, Caller(dice.choice([0, 1001]))
                )
            ).result

        handles.append(model.run(work))

    def opened() -> None:
        ino, flags = node(), os.O_RDWR | dice.choice([0, os.O_TRUNC])
        handles.append(model.run(lambda: model.mount.open(ino, flags, model.caller)))

    def write() -> None:
        handle = dice.choice(handles)
        model.mount = handle.mount
        # At most four extents, so that no file system allocates a block for their map later.
        offset = dice.randrange(7 * BLOCK)
        model.write(handle, offset, b"x" * dice.randrange(1, 8 * BLOCK - offset))

    def append() -> None:
        handle = dice.choice(handles)
        model.mount, end = handle.mount, os.fstat(handle.fd).st_size
        model.write(handle, end, b"x" * min(3000, 8 * BLOCK - end))

    def change(**values: int) -> None:
        ino = node()
        model.run(lambda: model.mount.setattr(ino, values, None, model.caller))

    def close() -> None:
        handle = dice.choice(handles)
        handles.remove(handle)
        model.mount = handle.mount
        model.close(handle)

    def forgets() -> None:
        model.datastore.state.set("stale", client=dice.choice(mounts).client)
        model.datastore.state.set("up")

    operations: dict[str, tuple[int, Callable[[], Any]]] = {
        "create": (8, create),
        "open": (6, opened),
        "write": (8, write),
        "append": (4, append),
        "close": (6, close),
        "unlink": (6, lambda: model.unlink(path())),
        "link": (9, lambda: model.link(path(), path())),
        "rename": (9, lambda: model.rename(path(), path())),
        "mkdir": (4, lambda: model.mkdir(dice.choice([path(), "g", "g", "d/e", "f"]))),
        "rmdir": (2, lambda: model.rmdir(dice.choice([path(), "g", "d/e"]))),
        "truncate": (5, lambda: change(size=dice.randrange(9 * BLOCK))),
        "chown": (3, lambda: change(uid=dice.choice([0, 1001]))),
        "stale": (1, forgets),
        "no limits": (1, lambda: capacity.set(size=None, quotas=None)),
        "limits": (2, lambda: capacity.set(**limits)),
    }
    done: set[str] = set()
    for directory in ("d", "d/e", "f"):
        model.mkdir(directory)
    for step in range(500):
        name = dice.choices(list(operations), [weight for weight, _unused in operations.values()])[0]
        if name in ("link", "rename") and not capacity.status()["limited"]:
            # A file with a name inside and a name outside of a later quota could count as either.
            continue
        model.mount = dice.choice(mounts)
        # The file system raises the errors that the kernel would raise.
        with contextlib.suppress(OSError, IndexError):
            operations[name][1]()
            done.add(name)
        if capacity.status()["limited"]:
            assert counted(model) == census(model), f"step {step}: {name}"
    assert done == operations.keys()

# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""Each policy, without a mount."""
from __future__ import annotations

import contextlib
import errno
import os
import random
import stat
from collections.abc import Callable
from typing import Any

import pytest
import trio
import trio.testing
from sd_model import Caller, Model
from simulated_datastore.capabilities import Capabilities
from simulated_datastore.errors import SimulatedDatastoreError
from simulated_datastore.mount import Handle

BLOCK = 4096


def error_of(work: Callable[[], Any]) -> str:
    """The name of the error that *work* meets."""
    with pytest.raises(OSError) as caught:  # noqa: PT011
        work()
    return errno.errorcode[caught.value.errno or 0]


def refusal(work: Callable[[], Any]) -> str:
    with pytest.raises(SimulatedDatastoreError) as caught:
        work()
    message = str(caught.value)
    assert message.endswith(".")
    assert "\n" not in message
    return message


# Rules


@pytest.mark.parametrize(("trigger", "hits"), [
    ({}, [1, 2, 3, 4, 5, 6]), ({"nth": 3}, [3]), ({"after": 4}, [5, 6]), ({"every": 2}, [2, 4, 6]), ({"times": 2}, [1, 2]),
    ({"every": 2, "times": 2}, [2, 4]), ({"bytes": 20}, [3, 4, 5, 6]), ({"path": "*.qcow2"}, [1, 2, 3, 4, 5, 6]), ({"path": "*.raw"}, []),
    ({"path": "/dir/*"}, [1, 2, 3, 4, 5, 6]), ({"client": "host1"}, [1, 2, 3, 4, 5, 6])])
def test_triggers(model: Model, trigger: dict[str, Any], hits: list[int]) -> None:
    rule = model.datastore.rules.add(ops=["write"], **trigger)
    model.mkdir("dir")
    handle = model.create("dir/disk.qcow2")
    failed = []
    for number in range(1, 7):
        try:
            model.write(handle, 0, b"0123456789")
        except OSError as error:
            assert error.errno == errno.EIO
            failed.append(number)
    assert failed == hits
    assert model.datastore.rules.status()[0]["hits"] == len(hits)
    assert len(model.datastore.ledger.query(rule=rule["id"])) == len(hits)


def test_probability_replays(make: Callable[..., Model]) -> None:
    def play(seed: int) -> list[bool]:
        model = make()
        model.datastore.rules.add(id="dice", ops=["read"], probability=0.5, seed=seed)
        handle = model.create("file", b"x")
        found = []
        for _unused in range(40):
            try:
                model.read(handle, 0, 1)
                found.append(True)
            except OSError:
                found.append(False)
        return found

    assert play(1) == play(1)
    assert play(1) != play(2)
    assert 8 < sum(play(1)) < 32


def test_short_torn_corrupt_noop(model: Model) -> None:
    handle = model.create("file", b"a" * 3 * BLOCK)
    rules = model.datastore.rules
    rules.add(id="r", ops=["read"], action="short", keep=7)
    assert model.read(handle, 0, 100) == b"a" * 7
    rules.delete("r")
    rules.add(id="r", ops=["write"], action="short")
    assert model.write(handle, 0, b"b" * 10) == 5
    rules.delete("r")
    rules.add(id="r", ops=["write"], action="torn", keep=BLOCK + 100)
    assert model.write(handle, 0, b"c" * 2 * BLOCK) == 2 * BLOCK
    assert model.tree()["file"] == b"c" * BLOCK + b"a" * 2 * BLOCK
    rules.delete("r")
    rules.add(id="r", ops=["write"], action="noop")
    assert model.write(handle, 0, b"d" * 10) == 10
    assert (model.tree()["file"] or b"")[:1] == b"c"
    rules.delete("r")
    rules.add(id="r", ops=["read"], action="corrupt", seed=3)
    wrong = model.read(handle, 0, 100)
    assert sum((one ^ two).bit_count() for one, two in zip(wrong, b"c" * 100, strict=True)) == 1
    rules.clear()
    assert model.read(handle, 0, 100) == b"c" * 100


def test_an_error_after_the_effect(model: Model) -> None:
    model.datastore.rules.add(ops=["create"], when="after", error="ETIMEDOUT")
    assert error_of(lambda: model.create("file")) == "ETIMEDOUT"
    assert model.tree() == {"file": b""}
    assert model.mount.handles == {}
    model.datastore.rules.clear()
    assert len(model.datastore.nodes) == 1 or model.open("file")


def test_a_hang_ends_with_its_rule_and_holds_up_nobody(model: Model) -> None:
    handle = model.create("file", b"content")
    other = model.create("other", b"other")
    model.datastore.rules.add(id="hang", ops=["read"], path="file", action="hang")

    async def work() -> None:
        got = []

        async def read() -> None:
            got.append(await model.mount.read(handle.number, 0, 10))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await trio.testing.wait_all_tasks_blocked()
            assert len(model.datastore.parked) == 1
            assert await model.mount.read(other.number, 0, 10) == b"other"
            assert got == []
            model.datastore.rules.delete("hang")
        assert got == [b"content"]

    model.run(work)


@pytest.mark.parametrize(("rule", "says"), [
    ({"ops": ["wirte"]}, "did you mean 'write'"), ({"ops": []}, "matches nothing"), ({"op": "write"}, "did you mean 'ops'"),
    ({"ops": ["write"], "error": "EOI"}, "EIO"), ({"ops": ["write"], "nth": 0}, "at least 1"), ({"ops": ["write"], "nth": 2, "after": 5}, "can't match"),
    ({"ops": ["write"], "nth": 3, "every": 2}, "can't match"), ({"ops": ["write"], "probability": 0}, "can't match"),
    ({"ops": ["mkdir"], "bytes": 4}, "can't match"), ({"ops": ["mkdir"], "action": "torn"}, "only"), ({"ops": ["write"], "client": "host9"}, "host1"),
    ({"ops": ["write"], "action": "explode"}, "explode"), ({"ops": ["write"], "action": "delay", "delay": -1}, "at least 0"),
    ({"ops": ["write"], "action": "hang", "when": "after"}, "after the effect"), ({"ops": ["write"], "action": "crash"}, "crash tracking"),
    ({"ops": "write", "path": ""}, "text"), ({"ops": ["write"], "times": True}, "True")])
def test_a_rule_that_is_wrong_is_refused(model: Model, rule: dict[str, Any], says: str) -> None:
    assert says in refusal(lambda: model.datastore.rules.add(**rule))
    assert model.datastore.rules.status() == []
    assert model.datastore.plans["write"] is None


def test_what_the_adapter_cannot_honour_is_refused(make: Callable[..., Model]) -> None:
    model = make(capabilities=Capabilities("poor"))
    for rule in ({"ops": ["write"], "uid": 5}, {"ops": ["read"], "action": "kill"}, {"ops": ["mkdir"], "action": "disconnect"}):
        message = refusal(lambda rule=rule: model.datastore.rules.add(**rule))
        assert "'poor'" in message
        assert "capability" in message
    assert "strict" in refusal(lambda: model.add("host2", strict=True))
    model.datastore.rules.add(ops=["mkdir"], uid=5)


# Capacity


def test_capacity_is_exact_to_the_block(model: Model) -> None:
    handle = model.create("file", b"x" * 5000)
    capacity = model.datastore.capacity
    used = capacity.set(size=1 << 30)["used"]
    capacity.set(size=used + 2 * BLOCK)
    # The rest of its second block costs nothing.
    assert model.write(handle, 5000, b"y" * 3192) == 3192
    assert model.write(handle, 8192, b"z" * 3 * BLOCK) == 2 * BLOCK
    assert error_of(lambda: model.write(handle, 8192 + 2 * BLOCK, b"z")) == "ENOSPC"
    # What is there already can be written anew.
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
    assert (capacity.status()["used"] - start["used"], capacity.status()["inodes_used"] - start["inodes_used"]) == (BLOCK, 1)
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
    """Two clients, of whom the first doesn't know how long the file has become."""
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
    if at == "fsync":
        model.run(lambda: model.mount.close(handle.number))
        assert error_of(lambda: model.fsync(handle)) == "ENOSPC"
    else:
        assert error_of(lambda: model.run(lambda: model.mount.close(handle.number))) == "ENOSPC"
    # It is told once.
    model.fsync(handle)
    assert model.tree()["file"] == b"x" * BLOCK


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
    # As by a descriptor that was opened with O_PATH.
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
    """Bytes and inodes in the backing directory and of nameless open files: of all, of uid 1001, and below d."""
    found = {}
    for path in (model.root, *model.root.rglob("*")):
        found[path.lstat().st_ino] = (path.lstat(), f"/{path.relative_to(model.root)}")
    for mount in model.datastore.mounts.values():
        for handle in mount.handles.values():
            if not handle.lost:
                found.setdefault(os.fstat(handle.fd).st_ino, (os.fstat(handle.fd), os.fsdecode(handle.node.path)))
    parts = [[status for status, path in found.values() if fits(status, path)]
             for fits in (lambda *_unused: True, lambda status, _path: status.st_uid == 1001, lambda _status, path: path == "/d" or path.startswith("/d/"))]
    return [(sum(status.st_blocks for status in part) * 512, len(part)) for part in parts]


def counted(model: Model) -> list[tuple[int, int]]:
    status = model.datastore.capacity.status()
    return [(part["used"], part["inodes_used"]) for part in (status, *status["quotas"])]


@pytest.mark.parametrize("seed", range(3))
def test_whatever_several_clients_do_what_is_counted_is_what_is_there(model: Model, seed: int) -> None:
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
        """A file as a client knows it by its name, or has known it."""
        if dice.random() < 0.3:
            return dice.choice(known)
        known.append(model.run(lambda: model.ino(path())))
        return known[-1]

    def create() -> None:
        parent, name = path().rpartition("/")[::2]
        flags = os.O_RDWR | dice.choice([0, os.O_TRUNC])

        async def work() -> Handle:
            return (await model.mount.create(await model.ino(parent), name.encode(), 0o644, flags, Caller(dice.choice([0, 1001])))).result
        handles.append(model.run(work))

    def opened() -> None:
        ino, flags = node(), os.O_RDWR | dice.choice([0, os.O_TRUNC])
        handles.append(model.run(lambda: model.mount.open(ino, flags, model.caller)))

    def write() -> None:
        handle = dice.choice(handles)
        model.mount = handle.mount
        # At most four extents, so that no file system needs a block for the map of them later.
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
        "create": (8, create), "open": (6, opened), "write": (8, write), "append": (4, append), "close": (6, close),
        "unlink": (6, lambda: model.unlink(path())),
        "link": (9, lambda: model.link(path(), path())), "rename": (9, lambda: model.rename(path(), path())),
        "mkdir": (4, lambda: model.mkdir(dice.choice([path(), "g", "g", "d/e", "f"]))), "rmdir": (2, lambda: model.rmdir(dice.choice([path(), "g", "d/e"]))),
        "truncate": (5, lambda: change(size=dice.randrange(9 * BLOCK))), "chown": (3, lambda: change(uid=dice.choice([0, 1001]))),
        "stale": (1, forgets), "no limits": (1, lambda: capacity.set(size=None, quotas=None)), "limits": (2, lambda: capacity.set(**limits))}
    done: set[str] = set()
    for directory in ("d", "d/e", "f"):
        model.mkdir(directory)
    for step in range(500):
        name = dice.choices(list(operations), [weight for weight, _unused in operations.values()])[0]
        if name in ("link", "rename") and not capacity.status()["limited"]:
            # A file with a name inside a later quota and another outside could count as either.
            continue
        model.mount = dice.choice(mounts)
        # What the kernel would have refused, the file system does.
        with contextlib.suppress(OSError, IndexError):
            operations[name][1]()
            done.add(name)
        if capacity.status()["limited"]:
            assert counted(model) == census(model), f"step {step}: {name}"
    assert done == operations.keys()


# Time


def test_latency_is_paid_on_the_mock_clock(model: Model) -> None:
    handle = model.create("file", b"x" * 100)
    model.datastore.schedule.set(latency={"data": 2, "read": 5}, write=10)

    async def work() -> None:
        ends: dict[str, float] = {}

        async def timed(name: str, call: Callable[[], Any]) -> None:
            await call()
            ends[name] = model.clock.now()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(timed, "read", lambda: model.mount.read(handle.number, 0, 10))
            nursery.start_soon(timed, "write", lambda: model.mount.write(handle.number, 0, b"y" * 100))
            nursery.start_soon(timed, "fsync", lambda: model.mount.fsync(handle.number, False))
            for _unused in range(12):
                await trio.testing.wait_all_tasks_blocked()
                model.clock.advance(1)
        assert ends == {"fsync": 0, "read": 5, "write": 10}

    model.run(work)


# States


def test_states(model: Model) -> None:
    handle = model.create("file", b"content")
    state = model.datastore.state
    state.set("read-only")
    assert error_of(lambda: model.write(handle, 0, b"x")) == "EROFS"
    assert error_of(lambda: model.create("new")) == "EROFS"
    assert error_of(lambda: model.open("file")) == "EROFS"
    assert model.read(model.open("file", os.O_RDONLY), 0, 7) == b"content"
    state.set("down", error="ETIMEDOUT")
    assert error_of(lambda: model.read(handle, 0, 1)) == "ETIMEDOUT"
    state.set("stale")
    state.set("up")
    assert error_of(lambda: model.read(handle, 0, 1)) == "ESTALE"
    assert model.read(model.open("file"), 0, 7) == b"content"
    assert "did you mean 'hung'" in refusal(lambda: state.set("hunk"))
    assert model.datastore.plans["read"] is None


def test_who_hangs_goes_on_when_the_server_is_back(model: Model) -> None:
    handle = model.create("file", b"content")
    model.datastore.state.set("hung", client="host1")

    async def work() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(model.mount.read, handle.number, 0, 1)
            await trio.testing.wait_all_tasks_blocked()
            assert [request.op for request in model.datastore.parked] == ["read"]
            model.datastore.state.set("up")

    model.run(work)


# Identity


def test_squash(make: Callable[..., Model]) -> None:
    model = make(profile="nfs3", squash="root", anonymous=(65534, 65534))
    os.chmod(model.root, 0o755)
    assert error_of(lambda: model.create("file")) == "EACCES"
    os.chmod(model.root, 0o1777)
    model.create("file", b"mine")
    assert (model.root / "file").stat().st_uid == 65534
    (model.root / "secret").write_text("root's")
    os.chmod(model.root / "secret", 0o600)
    assert error_of(lambda: model.open("secret")) == "EACCES"
    assert error_of(lambda: model.unlink("secret")) == "EPERM"
    assert error_of(lambda: model.setattr("secret", mode=0o777)) == "EPERM"
    assert error_of(lambda: model.setattr("file", uid=0)) == "EPERM"
    model.caller = Caller(1001, 1001)
    model.create("theirs")
    assert (model.root / "theirs").stat().st_uid == 1001

    async def xattr() -> None:
        await model.mount.setxattr(await model.ino("theirs"), b"user.x", b"y", model.caller)
    assert error_of(lambda: model.run(xattr)) == "ENOTSUP"


# Crashes


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
    """Write a new file, rename it over the old one: without fsync some state has neither the old content nor the new one, with it none has."""
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
    assert outcomes(False, "ordered") == {b"old content", b"new content", b"", b"new c"}


def test_a_failed_fsync_that_forgets(model: Model) -> None:
    model.datastore.durability.track()
    handle = model.create("file", b"first")
    model.fsync(handle)
    model.write(handle, 0, b"FIRST")
    model.datastore.rules.add(ops=["fsync"], dirty="forget", times=1)
    assert error_of(lambda: model.fsync(handle)) == "EIO"
    # The second fsync succeeds, and yet the data isn't there.
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
        return stat.filemode(status.st_mode), status.st_uid, status.st_gid, status.st_mtime_ns, os.listxattr(model.root / name, follow_symlinks=False)

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
        assert {entry["path"] for entry in durability.unsynced()["attributes"]} == {"/file", "/tool", "/dir", "/symlink"}
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
    {"fsync": lambda: model.fsync(handle), "fsyncdir": lambda: model.fsyncdir(""), "close": lambda: model.close(handle)}[op]()
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
    # 101 names, of the first file too, and 100 contents.
    assert unsynced["written_back"] + len(unsynced["files"]) + len(unsynced["names"]) == 201
    assert unsynced["written_back"] > 100
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    model.datastore.crash(restart=True)
    assert model.tree()["forgotten"] == b"first"
    assert len(model.tree()) == 101 - len(unsynced["names"])


# Ledger


def test_the_ledger(model: Model) -> None:
    ledger = model.datastore.ledger
    handle = model.create("file", b"x" * 100)
    ledger.mark("here")
    model.read(handle, 0, 60)
    assert [(row["op"], row["path"], row["size"]) for row in ledger.query(since="here")] == [("read", "/file", 60)]
    assert {"client": "host1", "op": "write", "requests": 1, "bytes": 100, "errors": 0} in ledger.summary()
    assert ledger.query(path="*.raw") == []
    assert "no mark 'there'" in refusal(lambda: ledger.query(since="there"))
    assert "wirte" in refusal(lambda: ledger.query(op="wirte"))


def test_a_full_ledger_disk_is_told_and_nothing_else(model: Model, tmp_path: Any) -> None:
    ledger = model.datastore.ledger
    ledger.open_file(tmp_path / "ledger")
    handle = model.create("file", b"x")
    ledger.flush()
    assert len((tmp_path / "ledger").read_text().splitlines()) == ledger.status()["entries"]
    os.close(ledger._file or 0)
    ledger._file = os.open("/dev/full", os.O_WRONLY)
    model.read(handle, 0, 1)
    ledger.flush()
    assert "No space left" in ledger.status()["file_error"]
    assert model.read(handle, 0, 1) == b"x"


def test_a_bug_in_a_policy_is_an_error_of_one_request(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    handle = model.create("file", b"x")
    model.datastore.rules.add(ops=["read"])
    monkeypatch.setattr(model.datastore.rules, "_strike", lambda *_unused: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        model.read(handle, 0, 1)
    assert model.datastore.ledger.query()[-1]["error"] == errno.EIO

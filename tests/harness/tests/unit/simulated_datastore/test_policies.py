# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""The other policies and the ledger, without a mount."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import Any

import pytest
import trio
import trio.testing
from sd_model import BLOCK, Caller, Model, error_of, refusal
from simulated_datastore.capabilities import Capabilities

# Rules


@pytest.mark.parametrize(
    ("trigger", "hits"),
    [
        ({}, [1, 2, 3, 4, 5, 6]),
        ({"nth": 3}, [3]),
        ({"after": 4}, [5, 6]),
        ({"every": 2}, [2, 4, 6]),
        ({"times": 2}, [1, 2]),
        ({"every": 2, "times": 2}, [2, 4]),
        ({"bytes": 20}, [3, 4, 5, 6]),
        ({"path": "*.qcow2"}, [1, 2, 3, 4, 5, 6]),
        ({"path": "*.raw"}, []),
        ({"path": "/dir/*"}, [1, 2, 3, 4, 5, 6]),
        ({"client": "host1"}, [1, 2, 3, 4, 5, 6]),
    ],
)
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


@pytest.mark.parametrize(
    ("rule", "says"),
    [
        ({"ops": ["wirte"]}, "did you mean 'write'"),
        ({"ops": []}, "matches nothing"),
        ({"op": "write"}, "did you mean 'ops'"),
        ({"ops": ["write"], "error": "EOI"}, "EIO"),
        ({"ops": ["write"], "nth": 0}, "at least 1"),
        ({"ops": ["write"], "nth": 2, "after": 5}, "can't match"),
        ({"ops": ["write"], "nth": 3, "every": 2}, "can't match"),
        ({"ops": ["write"], "probability": 0}, "can't match"),
        ({"ops": ["mkdir"], "bytes": 4}, "can't match"),
        ({"ops": ["mkdir"], "action": "torn"}, "only"),
        ({"ops": ["write"], "client": "host9"}, "host1"),
        ({"ops": ["write"], "action": "explode"}, "explode"),
        ({"ops": ["write"], "action": "delay", "delay": -1}, "at least 0"),
        ({"ops": ["write"], "action": "hang", "when": "after"}, "after the effect"),
        ({"ops": ["write"], "action": "crash"}, "crash tracking"),
        ({"ops": "write", "path": ""}, "text"),
        ({"ops": ["write"], "times": True}, "True"),
    ],
)
def test_a_rule_that_is_wrong_is_refused(model: Model, rule: dict[str, Any], says: str) -> None:
    assert says in refusal(lambda: model.datastore.rules.add(**rule))
    assert model.datastore.rules.status() == []
    assert model.datastore.plans["write"] is None


def test_what_the_adapter_cannot_honour_is_refused(make: Callable[..., Model]) -> None:
    model = make(capabilities=Capabilities("poor"))
    for rule in (
        {"ops": ["write"], "uid": 5},
        {"ops": ["read"], "action": "kill"},
        {"ops": ["mkdir"], "action": "disconnect"},
    ):
        message = refusal(lambda rule=rule: model.datastore.rules.add(**rule))
        assert "'poor'" in message
        assert "capability" in message
    assert "strict" in refusal(lambda: model.add("host2", strict=True))
    model.datastore.rules.add(ops=["mkdir"], uid=5)


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
    monkeypatch.setattr(model.datastore.rules, "before", lambda *_unused: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        model.read(handle, 0, 1)
    assert model.datastore.ledger.query()[-1]["error"] == errno.EIO

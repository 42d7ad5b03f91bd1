# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""External input: values of the command line, scenarios, lines on the control socket."""

from __future__ import annotations

import bisect
import inspect
import itertools
import json
import logging
import os
import resource
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import chdir, contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from refusal import refused
from simulated_datastore import schema, settings
from simulated_datastore.control import ControlServer, Method
from simulated_datastore.daemon import Daemon
from simulated_datastore.errors import SimulatedDatastoreError
from simulated_datastore.exports import Source
from simulated_datastore.methods import Methods
from simulated_datastore.policies.rules import Rule
from simulated_datastore.settings import KEYS
from simulated_datastore.values import parse_assignments, size


def test_sizes() -> None:
    assert [size(text) for text in ("10M", "1 GiB", "2kb", "7", "x", 5, None)] == [
        10 << 20,
        1 << 30,
        2048,
        7,
        "x",
        5,
        None,
    ]


def test_assignments() -> None:
    assert parse_assignments(
        [
            "size=10M",
            "latency.fsync=0.5",
            "latency.read=1",
            'quotas=[{"uid": 5}]',
            "error=EIO",
            "path=a=b",
            "inodes=null",
        ]
    ) == {
        "size": 10 << 20,
        "latency": {"fsync": 0.5, "read": 1},
        "quotas": [{"uid": 5}],
        "error": "EIO",
        "path": "a=b",
        "inodes": None,
    }
    for words in (["size"], ["=5"], ["latency=1", "latency.read=2"]):
        with pytest.raises(SimulatedDatastoreError):
            parse_assignments(words)


CLIENTS = {"clients": [{"client": "host1"}]}


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ({}, "scenario: the key 'clients' is missing."),
        ({"clients": []}, "scenario.clients: an empty list, at least 1 is needed."),
        (
            {**CLIENTS, "setings": {}},
            "scenario: there is no key 'setings' (did you mean 'settings'?), accepted are name, backing, clock, "
            "clients, settings, rules, steps.",
        ),
        (
            {"clients": [{"client": "a", "profile": "nfs"}]},
            "scenario.clients[0].profile: 'nfs' isn't one of local, nfs3, nfs4.2 (did you mean 'nfs3'?).",
        ),
        ({**CLIENTS, "rules": [{"ops": ["write"], "nth": 0}]}, "scenario.rules[0].nth: 0 is less than 1."),
        ({**CLIENTS, "rules": [{"ops": ["write"], "nth": True}]}, "scenario.rules[0].nth: True isn't of type integer."),
        ({**CLIENTS, "steps": [{"run": "dd"}]}, "scenario.steps[0].run: 'dd' isn't of type array."),
        ([], "scenario: [] isn't of type object."),
        (
            {**CLIENTS, "steps": [{"crash": {"kep": "none"}}]},
            "scenario.steps[0].crash: there is no key 'kep' (did you mean 'keep'?), accepted are keep, names, seed, "
            "count, state, restart.",
        ),
        (None, "scenario: None isn't of type object."),
    ],
)
def test_a_scenario_that_is_wrong(data: Any, says: str) -> None:
    with refused(SimulatedDatastoreError, says=says):
        schema.check(data)


def test_the_schema_has_what_can_be_set() -> None:
    published = json.loads(schema.SCHEMA.read_text())["$defs"]
    assert set(published["settings"]["properties"]) == set(KEYS)
    assert set(published["rule"]["properties"]) == set(Rule.__dataclass_fields__)


@pytest.mark.parametrize(
    ("line", "answer"),
    [
        (b'{"id": 1, "method": "add", "params": {"one": 1, "two": 2}}', {"id": 1, "result": 3}),
        (
            b'{"id": 2, "method": "ad"}',
            {"id": 2, "error": "method: 'ad' isn't one of add, fail, slow (did you mean 'add'?)."},
        ),
        (
            b'{"id": 3, "method": "add", "params": {"one": 1, "tow": 2}}',
            {"id": 3, "error": "params of add: 'tow' isn't one of one, two (did you mean 'two'?)."},
        ),
        (b'{"id": 4, "method": "add", "params": {"one": 1}}', {"id": 4, "error": "params of add: 'two' is missing."}),
        (b"[1]", {"id": None, "error": "A request must be a JSON object, and its params one as well."}),
        (b"{", {"id": None, "error": "A request must be a JSON object on one line."}),
        (b'{"id": 5, "method": "slow"}', {"id": 5, "result": "done"}),
    ],
)
def test_lines_of_the_control_socket(tmp_path: Path, line: bytes, answer: dict[str, Any]) -> None:
    async def slow() -> str:
        await trio.lowlevel.checkpoint()
        return "done"

    server = ControlServer(
        tmp_path / "socket", {"add": lambda one, two: one + two, "slow": slow, "fail": lambda: 1 / 0}
    )
    assert trio.run(server.answer, line) == answer


def test_a_bug_in_a_method_is_answered(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    server = ControlServer(tmp_path / "socket", {"fail": lambda: 1 / 0})
    assert "ZeroDivisionError" in trio.run(server.answer, b'{"id": 1, "method": "fail"}')["error"]
    assert caplog.records[0].exc_info


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"state": "bogus"}, "set.state: 'bogus' isn't one of up, slow, hung, down, read-only, stale."),
        ({"state": "slow", "delay": -1}, "set.delay: -1 is less than 0."),
        (
            {"state": "down", "error": "EOI"},
            "error: 'EOI' isn't the name of an error like EIO or ENOSPC (did you mean 'ENOCSI'?).",
        ),
        ({"crash_tracking": "no"}, "crash_tracking: 'no' is neither true nor false."),
    ],
)
def test_nothing_is_set_when_the_last_setting_is_wrong(wrong: dict[str, Any], says: str) -> None:
    """Run without a control, so that setting any value first would fail differently."""
    with refused(SimulatedDatastoreError, says=says):
        settings.apply(None, {"size": 10 << 20, **wrong})  # type: ignore[arg-type]


# Methods of a daemon: a value of a wrong type or out of range is refused with a sentence, and changes nothing.


@contextmanager
def without_mounts(root: Path) -> Iterator[Daemon]:
    """Yield a daemon without mounts, with crash tracking and a clock that is moved by hand."""
    for name in ("backing", "runtime"):
        (root / name).mkdir()
    made = Daemon(
        {
            "runtime": str(root / "runtime"),
            "backing": str(root / "backing"),
            "mounts": [],
            "clock": "mock",
            "known": 100,
            "log": "none",
        }
    )
    made.datastore.durability.track()
    try:
        # A mount by a failed check would be in this directory, which is removed.
        with chdir(root):
            yield made
    finally:
        for adapter in list(made.adapters.values()):
            made._close(adapter)
        made.datastore.close()
        logging.getLogger("simulated_datastore").removeHandler(made.bugs)
        made._watchdog.stdin.close()  # type: ignore[union-attr]
        made._watchdog.wait()


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    with without_mounts(tmp_path) as made:
        yield made


@pytest.fixture(scope="module")
def refusing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """Yield the daemon of all tests that change nothing."""
    with without_mounts(tmp_path_factory.mktemp("refusing")) as made:
        yield made


def ask(daemon: Daemon, method: str, params: Any) -> dict[str, Any]:
    """Return the daemon's answer to a line of the socket."""
    server = ControlServer(daemon.runtime / "socket", Methods(daemon.datastore, daemon).table())

    async def main() -> dict[str, Any]:
        with trio.fail_after(20):
            return await server.answer(json.dumps({"id": 1, "method": method, "params": params}).encode())

    answer = trio.run(main)
    assert json.loads(json.dumps(answer)) == answer
    return answer


def in_force(daemon: Daemon) -> dict[str, Any]:
    """Return everything that a method can change. An error here means a damaged daemon."""
    status = ask(daemon, "status", {})["result"]
    return {
        key: status[key]
        for key in ("clients", "clock", "settings", "capacity", "state", "rules", "crash_tracking", "ledger", "bugs")
    }


WRITE = {"ops": ["write"]}
HUGE = 10**400
MOUNT = {"mount_point": "/nonexistent"}


@pytest.mark.parametrize(
    ("method", "params", "option"),
    [
        *(("ledger.mark", {"name": value}, "name") for value in (5, [], None, "", "a\0", "\ud800")),
        *(
            (method, {option: value}, option)
            for method in ("ledger.query", "ledger.summary")
            for option, value in (
                ("path", 5),
                ("path", "\ud800"),
                ("path", "a\0"),
                ("op", 5),
                ("op", [[]]),
                ("op", "wriet"),
                ("since", []),
                ("since", "never"),
                ("since", True),
                ("since", -1),
                ("client", 5),
                ("rule", []),
                ("error", "EIO"),
            )
        ),
        ("ledger.query", {"limit": "x"}, "limit"),
        ("ledger.query", {"limit": -1}, "limit"),
        ("ledger.query", {"pth": "x"}, "criteria"),
        ("wait_for", {"predicate": 5}, "predicate"),
        ("wait_for", {"predicate": {"count": "x"}}, "count"),
        ("wait_for", {"predicate": {"parked": "x"}}, "parked"),
        ("wait_for", {"predicate": {"parked": None}}, "parked"),
        ("wait_for", {"predicate": {"parked": 1, "op": 5}}, "predicate"),
        ("wait_for", {"predicate": {"path": 5}}, "path"),
        *(
            ("wait_for", {"predicate": {}, "timeout": value}, "timeout")
            for value in (HUGE, "x", -1, True, float("nan"))
        ),
        *(("clock.advance", {"seconds": value}, "seconds") for value in (HUGE, "x", [], -1, True, float("inf"), None)),
        *(
            ("mount", {"mount_point": value}, "mount_point")
            for value in (5, "", "/tmp/\0", "/tmp/\ud800", None, "/tmp/" + "x" * 5000)
        ),
        *(
            ("mount", {**MOUNT, "client": value}, "client")
            for value in (5, [], None, "", "h4,ro", "h5\0x", "a b", "x" * 42, "h\n", "-a")
        ),
        *(
            ("mount", {**MOUNT, option: value}, option)
            for option in ("anonymous_uid", "anonymous_gid")
            for value in ("x", -1, 1 << 32, True, None)
        ),
        *(
            ("mount", {**MOUNT, option: value}, option)
            for option in ("read_only", "strict")
            for value in ("no", 1, None)
        ),
        ("mount", {**MOUNT, "squash": ""}, "squash"),
        ("mount", {**MOUNT, "profile": []}, "profile"),
        ("umount", {"client": []}, "client"),
        *(("schedule.set", {"seed": value}, "seed") for value in ("x", float("inf"), None, 1.5, HUGE)),
        *(
            ("schedule.set", {"latency": value}, "latency")
            for value in ([1], "abc", {"write": "x"}, {"wriet": 1}, True, HUGE)
        ),
        *(
            ("schedule.set", {option: value}, option)
            for option in ("jitter", "read", "write", "requests")
            for value in ("x", [], None, -1, HUGE, float("nan"))
        ),
        *(
            ("resize", {option: value}, option)
            for option in ("size", "inodes", "max_file")
            for value in (1 << 90, -4096, "x", True, 1.5)
        ),
        ("resize", {"error_at": 5}, "error_at"),
        *(
            ("resize", {"quotas": value}, "quotas")
            for value in (
                5,
                True,
                "x",
                [5],
                [{}],
                [{"uid": None}],
                [{"uid": "x"}],
                [{"uid": 1 << 32}],
                [{"path": 5}],
                [{"path": "\ud800"}],
                [{"path": "a\0"}],
                [{"path": "a/../b"}],
                [{"path": "a//b"}],
                [{"uid": 1, "size": 1 << 90}],
                [{"uid": 1, "inodes": "x"}],
            )
        ),
        *(("crash.states", {"limit": value}, "limit") for value in (10**30, 10_001, 0, "x", None)),
        ("crash.states", {"names": []}, "names"),
        *((method, {"seed": value}, "seed") for method in ("crash.count", "crash.states") for value in (-1, "x", None)),
        ("crash.count", {"limit": 0}, "limit"),
        *(("crash", {"state": value}, "state") for value in (10**30, 10_000, -1, "x")),
        ("crash", {"restart": "yes"}, "restart"),
        ("crash", {"count": "x"}, "count"),
        ("crash.track", {"enabled": 1}, "crash_tracking"),
        ("crash.track", {"limit": "x"}, "limit"),
        *(("rule.add", {**WRITE, "id": value}, "id") for value in ([], None, 5, "", "\udc80", {})),
        ("rule.add", {"ops": [[]]}, "ops"),
        ("rule.add", {"ops": 5}, "ops"),
        *(("rule.add", {**WRITE, "path": value}, "path") for value in (5, "\ud800", "a\0", "", [])),
        ("rule.add", {**WRITE, "client": []}, "client"),
        *(
            ("rule.add", {**WRITE, "action": "delay", "delay": value}, "delay")
            for value in (HUGE, "x", -1, True, float("inf"))
        ),
        *(
            ("rule.add", {**WRITE, option: value}, option)
            for option in ("uid", "nth", "after", "every", "times", "bytes")
            for value in ("x", -1, 1 << 70, 1.5)
        ),
        *(
            ("rule.add", {**WRITE, option: value}, option)
            for option in ("seed", "probability")
            for value in ("x", [], True, HUGE)
        ),
        ("rule.add", {**WRITE, "action": "crash", "crash": {"state": 10**30}}, "state"),
        ("rule.add", {**WRITE, "action": "crash", "crash": 5}, "crash"),
        ("rule.del", {"id": []}, "id"),
        ("state.set", {"state": []}, "state"),
        ("state.set", {"state": "slow", "delay": HUGE}, "delay"),
        ("state.set", {"state": "down", "error": "E\ud800"}, "error"),
        ("state.set", {"state": "up", "client": {}}, "client"),
    ],
)
def test_a_wrong_value_is_refused_by_its_name(
    refusing: Daemon, method: str, params: dict[str, Any], option: str
) -> None:
    before = in_force(refusing)
    answer = ask(refusing, method, params)
    assert answer.get("error", f"accepted with {answer}").startswith(option)
    assert in_force(refusing) == before


VALUES = [
    None,
    True,
    -1,
    10**30,
    HUGE,
    0.5,
    float("nan"),
    float("inf"),
    "",
    "x",
    "a\0b",
    "\ud800",
    "\udc80",
    "x" * 5000,
    [],
    [[]],
    ["x", 5],
    {},
    {"x": []},
]


def test_no_value_of_any_parameter_is_a_bug(daemon: Daemon) -> None:
    """For any parameter the answer is a result or a sentence, and the daemon's status is still readable."""
    table: dict[str, Method] = Methods(daemon.datastore, daemon).table()
    more = {
        "rule.add": list(Rule.__dataclass_fields__),
        "crash": ["keep", "names", "seed", "count", "state", "restart"],
        "resize": ["size", "inodes", "max_file", "error_at", "quotas"],
        "ledger.query": ["op", "path", "client", "rule", "error", "since", "limit"],
        "export": list(Source.__dataclass_fields__),
        "ledger.summary": ["op", "path", "client", "rule", "error", "since"],
    }
    # The mount point must not exist, so that nothing is mounted.
    needed: dict[str, dict[str, Any]] = {
        "rule.add": {**WRITE, "action": "error"},
        "state.set": {"state": "slow"},
        "mount": MOUNT,
        "export": {"source": "nfs1:/x"},
        "mount_export": {**MOUNT, "source": "nfs1:/x"},
        "wait_for": {"predicate": {}, "timeout": 0},
    }
    ask(daemon, "export", {"source": "nfs1:/x"})
    asked = 0
    for method in table.keys() - {"shutdown"}:
        for option in more.get(method) or inspect.signature(table[method]).parameters:
            for value in VALUES:
                answer = ask(daemon, method, {**needed.get(method, {}), option: value})
                assert "a bug in the daemon" not in answer.get("error", ""), (method, option, value)
                asked += 1
        in_force(daemon)
    assert asked > 1000
    assert not daemon.bugs.count


def test_marks_do_not_spoil_the_status(daemon: Daemon) -> None:
    for name in (5, "a", [], None):
        ask(daemon, "ledger.mark", {"name": name})
    assert ask(daemon, "status", {})["result"]["ledger"]["marks"] == ["a"]


def test_the_largest_limits_fit_into_what_statfs_answers(daemon: Daemon) -> None:
    status = ask(daemon, "resize", {"size": (1 << 63) - 4096, "inodes": (1 << 63) - 1})["result"]
    assert (status["size"], status["inodes"]) == ((1 << 63) - 4096, (1 << 63) - 1)


def test_a_path_that_is_not_unicode_is_one(daemon: Daemon) -> None:
    assert ask(daemon, "ledger.query", {"path": os.fsdecode(b"/\xff")}) == {"id": 1, "result": []}


# Connections


@pytest.mark.parametrize(
    "line", [b"[" * 500_000, b'{"id": ' + b"[" * 500_000, b'{"id": [1], "method": "fail"}', b"\xff", b""]
)
def test_a_line_that_is_no_request(tmp_path: Path, line: bytes) -> None:
    answer = trio.run(ControlServer(tmp_path / "socket", {"fail": lambda: 1 / 0}).answer, line)
    assert answer["id"] is None
    assert "bug" not in answer["error"]


def nested(depth: int) -> bytes:
    return b'{"id": 1, "method": "echo", "params": {"value": ' + b"[" * depth + b"]" * depth + b"}}"


def is_too_deep(depth: int) -> bool:
    """Return True if json refuses the depth, which depends on the version of Python."""
    try:
        json.loads(nested(depth))
    except RecursionError:
        return True
    return False


def test_no_depth_of_nesting_is_a_bug(tmp_path: Path) -> None:
    """repr() may fail at a depth that json still reads."""

    def echo(value: Any) -> None:
        raise SimulatedDatastoreError(repr(value))

    server = ControlServer(tmp_path / "socket", {"echo": echo})
    deepest = bisect.bisect(range(500_000), False, key=is_too_deep)
    answers = {trio.run(server.answer, nested(depth))["error"] for depth in range(deepest - 200, deepest + 1, 3)}
    assert "A request must not be nested so deeply." in answers
    assert not any("bug" in answer for answer in answers)


def serve(path: Path, methods: dict[str, Method], work: Callable[[trio.SocketStream], Awaitable[None]]) -> None:
    """Run *work* with a connection to a server of *methods*."""

    async def main() -> None:
        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                await nursery.start(ControlServer(path, methods).serve)
                async with await trio.open_unix_socket(path) as stream:
                    await work(stream)
                nursery.cancel_scope.cancel()

    trio.run(main)


async def receive(stream: trio.SocketStream, count: int) -> list[dict[str, Any]]:
    text = b""
    while text.count(b"\n") < count:
        chunk = await stream.receive_some()
        assert chunk, f"the connection ended after {text!r}"
        text += chunk
    return [json.loads(line) for line in text.splitlines()]


def test_who_has_no_more_to_ask_gets_the_answers(tmp_path: Path) -> None:
    async def slow() -> str:
        await trio.sleep(0.05)
        return "done"

    async def work(stream: trio.SocketStream) -> None:
        await stream.send_all(b'{"id": 1, "method": "slow"}\n' * 3)
        await stream.send_eof()
        assert await receive(stream, 3) == [{"id": 1, "result": "done"}] * 3
        assert await stream.receive_some() == b""

    serve(tmp_path / "socket", {"slow": slow}, work)


@pytest.mark.parametrize("requests", [1, 64, 200])
def test_who_has_gone_leaves_nothing_that_hangs(tmp_path: Path, requests: int) -> None:
    begun, ended = itertools.count(1), trio.Event()
    hanging = trio.Event()

    async def hang() -> None:
        if next(begun) == min(requests, 64):
            hanging.set()
        try:
            await trio.sleep_forever()
        finally:
            ended.set()

    async def work(stream: trio.SocketStream) -> None:
        await stream.send_all(b'{"id": 1, "method": "hang"}\n' * requests)
        await stream.send_eof()
        await hanging.wait()
        assert not ended.is_set()
        await stream.aclose()
        await ended.wait()

    serve(tmp_path / "socket", {"hang": hang}, work)


def test_who_asks_too_much_at_once_is_read_no_further(tmp_path: Path) -> None:
    running = most = 0

    async def count() -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await trio.sleep(0.001)
        running -= 1

    async def work(stream: trio.SocketStream) -> None:
        await stream.send_all(b'{"id": 1, "method": "count"}\n' * 1000)
        assert await receive(stream, 1000) == [{"id": 1, "result": None}] * 1000
        assert most == 64

    serve(tmp_path / "socket", {"count": count}, work)


@pytest.mark.parametrize("size", [(1 << 20) + 1, 5 << 20])
def test_a_line_that_is_too_long_is_answered(tmp_path: Path, size: int) -> None:
    async def work(stream: trio.SocketStream) -> None:
        await stream.send_all(b"x" * size + b'\n{"id": 2, "method": "one"}\n')
        first, second = sorted(await receive(stream, 2), key=lambda answer: "result" in answer)
        assert first == {"id": None, "error": "A request must not be longer than 1048576 bytes."}
        assert second == {"id": 2, "result": 1}

    serve(tmp_path / "socket", {"one": lambda: 1}, work)


def test_no_descriptor_for_a_connection_is_no_end(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)

    async def work(stream: trio.SocketStream) -> None:
        await stream.send_all(b'{"id": 1, "method": "one"}\n')
        assert await receive(stream, 1) == [{"id": 1, "result": 1}]
        with socket.socket(socket.AF_UNIX) as other:
            free = os.dup(0)
            os.close(free)
            resource.setrlimit(resource.RLIMIT_NOFILE, (free, limits[1]))
            try:
                other.connect(os.fspath(tmp_path / "socket"))
                while "can't be accepted" not in caplog.text:
                    await trio.sleep(0.01)
                await stream.send_all(b'{"id": 1, "method": "one"}\n')
                assert await receive(stream, 1) == [{"id": 1, "result": 1}]
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, limits)
            other.sendall(b'{"id": 2, "method": "one"}\n')
            async with trio.SocketStream(trio.socket.from_stdlib_socket(other.dup())) as answers:
                assert await receive(answers, 1) == [{"id": 2, "result": 1}]

    serve(tmp_path / "socket", {"one": lambda: 1}, work)

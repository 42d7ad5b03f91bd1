# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""What comes from outside: values of the command line, scenarios, lines on the control socket."""
from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import trio
from simulated_datastore import schema
from simulated_datastore.control import ControlServer
from simulated_datastore.errors import SimulatedDatastoreError
from simulated_datastore.policies.rules import Rule
from simulated_datastore.settings import KEYS
from simulated_datastore.values import assignments, size


def test_sizes() -> None:
    assert [size(text) for text in ("10M", "1 GiB", "2kb", "7", "x", 5, None)] == [10 << 20, 1 << 30, 2048, "7", "x", 5, None]


def test_assignments() -> None:
    assert assignments(["size=10M", "latency.fsync=0.5", "latency.read=1", "quotas=[{\"uid\": 5}]", "error=EIO", "path=a=b", "inodes=null"]) == {
        "size": 10 << 20, "latency": {"fsync": 0.5, "read": 1}, "quotas": [{"uid": 5}], "error": "EIO", "path": "a=b", "inodes": None}
    for words in (["size"], ["=5"], ["latency=1", "latency.read=2"]):
        with pytest.raises(SimulatedDatastoreError):
            assignments(words)


CLIENTS = {"clients": [{"client": "host1"}]}


@pytest.mark.parametrize(("data", "says"), [
    ({}, "'clients' is missing"), ({"clients": []}, "empty list"), ({**CLIENTS, "setings": {}}, "did you mean 'settings'"),
    ({"clients": [{"client": "a", "profile": "nfs"}]}, "clients[0].profile"), ({**CLIENTS, "rules": [{"ops": ["write"], "nth": 0}]}, "less than 1"),
    ({**CLIENTS, "rules": [{"ops": ["write"], "nth": True}]}, "isn't of type integer"), ({**CLIENTS, "steps": [{"run": "dd"}]}, "isn't of type array"),
    ([], "isn't of type object"), ({**CLIENTS, "steps": [{"crash": {"kep": "none"}}]}, "did you mean 'keep'"), (None, "isn't of type object")])
def test_a_scenario_that_is_wrong(data: Any, says: str) -> None:
    with pytest.raises(SimulatedDatastoreError) as caught:
        schema.check(data)
    assert says in str(caught.value)


def test_the_schema_has_what_can_be_set() -> None:
    published = json.loads(schema.SCHEMA.read_text())["$defs"]
    assert set(published["settings"]["properties"]) == set(KEYS)
    assert set(published["rule"]["properties"]) == set(Rule.__dataclass_fields__)


@pytest.mark.parametrize(("line", "answer"), [
    (b'{"id": 1, "method": "add", "params": {"one": 1, "two": 2}}', {"id": 1, "result": 3}),
    (b'{"id": 2, "method": "ad"}', {"id": 2, "error": "method: 'ad' isn't one of add, fail, slow (did you mean 'add'?)."}),
    (b'{"id": 3, "method": "add", "params": {"one": 1, "tow": 2}}', {"id": 3, "error": "params of add: 'tow' isn't one of one, two (did you mean 'two'?)."}),
    (b'{"id": 4, "method": "add", "params": {"one": 1}}', {"id": 4, "error": "params of add: 'two' is missing."}),
    (b"[1]", {"id": None, "error": "A request must be a JSON object, and its params one as well."}),
    (b"{", {"id": None, "error": "A request must be a JSON object on one line."}),
    (b'{"id": 5, "method": "slow"}', {"id": 5, "result": "done"})])
def test_lines_of_the_control_socket(tmp_path: Path, line: bytes, answer: dict[str, Any]) -> None:
    async def slow() -> str:
        await trio.lowlevel.checkpoint()
        return "done"

    server = ControlServer(tmp_path / "socket", {"add": lambda one, two: one + two, "slow": slow, "fail": lambda: 1 / 0})
    assert trio.run(server.answer, line) == answer


def test_a_bug_in_a_method_is_answered(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    server = ControlServer(tmp_path / "socket", {"fail": lambda: 1 / 0})
    assert "ZeroDivisionError" in trio.run(server.answer, b'{"id": 1, "method": "fail"}')["error"]
    assert caplog.records[0].exc_info

# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""Untrusted messages of another host, decoded by the table of the bridges' operations."""

from __future__ import annotations

import json
from typing import Any

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core import errors
from ansible_collections.granary.vmstore.plugins.module_utils._driver.datastore.base import (
    CopiedImage,
    CopyOptions,
    ImageUse,
)
from ansible_collections.granary.vmstore.plugins.module_utils._driver.datastore.bridge_protocol import (
    KINDS,
    OPERATIONS,
    kinds_in,
)
from ansible_collections.granary.vmstore.plugins.module_utils._image.inventory import (
    Inventory,
    StoredFile,
    StoredImage,
    StoredSnapshot,
)
from ansible_collections.granary.vmstore.plugins.module_utils._remote.tree_stream import BadData
from ansible_collections.granary.vmstore.plugins.module_utils._remote.wire import (
    decode,
    describe_failure,
    encode,
    read_answer,
)
from refusal import refused

#: Remaining fields of results.
REST = {"warnings": [], "checksum": None}
NOTHING: dict[str, list[object]] = {"images": [], "orphaned": [], "stale": [], "in_progress": [], "foreign": []}


def answer_to(action: str, line: bytes) -> dict[str, Any]:
    return read_answer("bridge h1", action, line, OPERATIONS[action].result, kinds_in(action))


def test_dataclasses_arrive_as_they_were() -> None:
    message = {
        "options": CopyOptions("os", checksums={"md5": "0" * 32}, bandwidth=5),
        "copied": CopiedImage("/x", "raw", 1, ("a", "b")),
        "none": None,
    }
    assert decode(encode(message), KINDS) == message


@pytest.mark.parametrize(
    ("action", "result"),
    [
        ("cp", CopiedImage("/x", "raw", 1, ("a", "b"))),
        ("damage", None),
        ("snapshots", (1, 2)),
        ("uses", (ImageUse("/x", "a"),)),
        (
            "inventory",
            Inventory((StoredImage("/x", "raw", 1, 1, 1, 1, (StoredSnapshot(0, 1),)),), stale=(StoredFile("/y", 1),)),
        ),
    ],
)
def test_results_arrive_as_they_were(action: str, result: object) -> None:
    assert answer_to(action, encode({"result": result}, has_kinds=False)) == {"result": result}


@pytest.mark.parametrize(
    "error",
    [
        errors.NoSpace("no space"),
        errors.UnsupportedAction("not here"),
        errors.InvalidInput("path", "/x", "another is expected"),
        errors.PathNotAllowed("path", "/x", "another is expected"),
        RuntimeError("a bug"),
    ],
)
def test_errors_arrive_as_they_were(error: Exception) -> None:
    found = answer_to("cp", encode(describe_failure(error)))["error"]
    assert found.__class__ is (error.__class__ if isinstance(error, errors.VmstoreError) else errors.CommandFailed)
    assert str(error) in str(found)


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"[]",
        b"5",
        b"no JSON",
        b"{}",
        b'{"error": "SystemExit", "message": ""}',
        b'{"error": "os"}',
        b'{"result": {"is": "Datastores"}}',
        b'{"error": "printable", "message": ""}',
        b'{"result": {"is": "encode", "message": {}}}',
        b"[" * 99999,
    ],
)
def test_a_bridge_that_answers_something_else(line: bytes) -> None:
    with refused(errors.CommandFailed, says="The bridge h1 sent an invalid answer to cp: *.") as caught:
        answer_to("cp", line)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("action", "result"),
    [
        ("cp", None),
        ("cp", {"source": 5, "format": "raw", "size_mb": 1, **REST}),
        ("cp", {"source": "/x/0", "format": "raw", "size_mb": "1", **REST}),
        ("cp", {"source": "/x/0", "format": "raw", "size_mb": True, **REST}),
        ("cp", {"source": "/x/0", "format": "raw", "size_mb": 2**63, **REST}),
        ("cp", {"used_mb": 1, "free_mb": 1, "total_mb": 1}),
        (
            "cp",
            {"is": "CopiedImage", "source": "/x/0", "format": "raw", "size_mb": 1, **REST},
        ),
        ("mkfs", ["x"]),
        ("rm", "x"),
        ("monitor", {"used_mb": None, "free_mb": 1, "total_mb": 1}),
        ("snap_same", 1),
        ("snapshots", "12"),
        ("snapshots", ["1"]),
        ("stored", [["x"]]),
        ("inventory", {**NOTHING, "images": ["x"]}),
        ("inventory", {**NOTHING, "images": [{"path": "x", "allocated": 1}]}),
        ("inventory", {**NOTHING, "stale": [{"path": "x", "allocated": "1"}]}),
    ],
)
def test_a_bridge_that_answers_another_type(action: str, result: object) -> None:
    with refused(errors.CommandFailed, names=["bridge h1", action]):
        answer_to(action, json.dumps({"result": result}).encode())


def test_a_bridge_can_not_act_on_a_terminal() -> None:
    answer = answer_to("cp", json.dumps({"error": "NoSpace", "message": "a\x1b[31m\nb"}).encode())
    assert answer["error"].__class__ is errors.NoSpace
    assert str(answer["error"]) == "On the bridge h1: a?[31m?b"


def test_an_error_of_a_class_of_one_module_arrives_as_its_base_class() -> None:
    answer = encode(describe_failure(BadData("The digests differ.")))
    with refused(errors.TransferFailed, says="On the bridge h1: The digests differ."):
        raise answer_to("cp", answer)["error"]


def test_an_error_of_a_host_behind_another_one() -> None:
    """Each host adds its name to the sentence."""
    answer = encode(describe_failure(errors.NotFound("On the host h2: There is no disk.")))
    with refused(errors.NotFound, says="On the bridge h1: on the host h2: There is no disk."):
        raise answer_to("rm", answer)["error"]

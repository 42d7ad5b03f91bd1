# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""The service behind the Ansible module, on real mounts by way of the real program."""
from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import VmstoreError
from ansible_collections.granary.vmstore.plugins.module_utils._service.simulated_datastore import (
    SimulatedDatastoreService,
    SimulatedDatastoreWish,
    read_simulated_datastore,
)
from simulated_datastore.client import Control

HARNESS = Path(__file__).resolve().parents[2] / "harness"


class Host:
    """A test host with the program, of which no other datastores are seen."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.program = root / "simulated-datastore"
        self.program.write_text(f"#!/bin/sh\nexport SIMULATED_DATASTORE_RUNTIME='{root}/run' PYTHONPATH='{HARNESS}'\n"
                                f"exec '{sys.executable}' -m simulated_datastore \"$@\"\n")
        self.program.chmod(0o755)
        for name in ("backing", "one", "two"):
            (root / name).mkdir()

    def plan(self, *, clients: str = "one two", **options: Any) -> Any:
        mounts = [{"client": name, "path": str(self.root / name), "profile": "local", "squash": None, "read_only": False, "strict": False}
                  for name in clients.split()]
        wish = {"executable": str(self.program), "name": "module", "backing": str(self.root / "backing"), "mounts": mounts, **options}
        return SimulatedDatastoreService(SimulatedDatastoreWish(**wish)).plan()

    def control(self) -> Control:
        return Control(self.root / "run/module/socket")


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    host = Host(tmp_path)
    yield host
    host.plan(state="unmounted").commit()
    assert not os.path.ismount(tmp_path / "one")


def test_mounts_settings_and_rules(host: Host) -> None:
    wish: dict[str, Any] = {"settings": {"size": 1 << 20, "latency": {"fsync": 0.01}}, "rules": [{"id": "r", "ops": ["write"], "nth": 3}]}
    plan = host.plan(**wish)
    # Check mode: nothing has happened yet.
    assert not os.path.ismount(host.root / "one")
    assert [action.name for action in plan.actions] == ["mount for one", "mount for two", "set", "add rule"]
    plan.commit()
    assert os.path.ismount(host.root / "one")
    assert os.path.ismount(host.root / "two")
    assert os.statvfs(host.root / "two").f_blocks == 256
    assert not host.plan(**wish).changed
    assert [action.name for action in host.plan(settings={"size": 1 << 20}).actions] == []
    plan = host.plan(clients="one", rules=[{"id": "r", "ops": ["write"], "nth": 4}, {"id": "s", "ops": ["read"]}])
    assert [action.name for action in plan.actions] == ["unmount for two", "delete rule", "add rule", "add rule"]
    plan.commit()
    control = host.control()
    assert [(rule["id"], rule.get("nth")) for rule in control.call("rule.list")] == [("r", 4), ("s", None)]
    control.close()
    assert json.dumps(plan.described())


def test_what_is_refused(host: Host) -> None:
    with pytest.raises(VmstoreError, match="an id"):
        host.plan(rules=[{"ops": ["write"]}])
    with pytest.raises(VmstoreError, match="did you mean 'size'"):
        host.plan(settings={"sise": 5}).commit()
    # What the failed run had mounted is unmounted again.
    assert not os.path.ismount(host.root / "one")
    host.plan().commit()
    with pytest.raises(VmstoreError, match="unmount it first"):
        host.plan(backing=str(host.root))
    with pytest.raises(VmstoreError, match="not installed"):
        host.plan(executable="/nothing/simulated-datastore")


def test_the_info_module(host: Host) -> None:
    options = {"executable": str(host.program), "name": "module", "op": ["write"], "path": None, "client": "two", "rule": None, "since": None, "limit": 10}
    assert read_simulated_datastore(options)["mounted"] is False
    host.plan().commit()
    (host.root / "two/file").write_text("content")
    found = read_simulated_datastore(options)
    assert [(row["op"], row["path"], row["size"]) for row in found["ledger"]] == [("write", "/file", 7)]
    assert found["summary"] == [{"client": "two", "op": "write", "requests": 1, "bytes": 7, "errors": 0}]

# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""The service behind the Ansible module, on real mounts by the real program."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import (
    CommandFailed,
    CommandMissing,
    Conflict,
    InvalidInput,
)
from ansible_collections.granary.vmstore.plugins.module_utils._service.simulated_datastore import (
    SimulatedDatastoreService,
    SimulatedDatastoreSpec,
    read_simulated_datastore,
)
from refusal import refused
from simulated_datastore.client import Control

HARNESS = Path(__file__).resolve().parents[3]


class Host:
    """A test host with the program, without other datastores."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.program = root / "simulated-datastore"
        self.program.write_text(
            f"#!/bin/sh\nexport SIMULATED_DATASTORE_RUNTIME='{root}/run' PYTHONPATH='{HARNESS}'\n"
            f"exec '{sys.executable}' -m simulated_datastore \"$@\"\n"
        )
        self.program.chmod(0o755)
        for name in ("backing", "one", "two"):
            (root / name).mkdir()

    def plan(self, *, clients: str = "one two", **options: Any) -> Any:
        mounts = [
            {
                "client": name,
                "path": str(self.root / name),
                "profile": "local",
                "squash": None,
                "read_only": False,
                "strict": False,
            }
            for name in clients.split()
        ]
        return self.partial(**{"backing": str(self.root / "backing"), "mounts": mounts, **options})

    def partial(self, **options: Any) -> Any:
        return SimulatedDatastoreService(
            SimulatedDatastoreSpec(**{"executable": str(self.program), "name": "module", **options})
        ).plan()

    def control(self) -> Control:
        return Control(self.root / "run/module/socket")


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    host = Host(tmp_path)
    yield host
    host.plan(state="unmounted").run()
    assert not os.path.ismount(tmp_path / "one")


def test_mounts_settings_and_rules(host: Host) -> None:
    desired: dict[str, Any] = {
        "settings": {"size": 1 << 20, "latency": {"fsync": 0.01}},
        "rules": [{"id": "r", "ops": ["write"], "nth": 3}],
    }
    plan = host.plan(**desired)
    # In check mode nothing changes.
    assert not os.path.ismount(host.root / "one")
    assert [action.name for action in plan.actions] == ["mount for one", "mount for two", "set", "add rule"]
    plan.run()
    assert os.path.ismount(host.root / "one")
    assert os.path.ismount(host.root / "two")
    assert os.statvfs(host.root / "two").f_blocks == 256
    assert not host.plan(**desired).changed
    assert [action.name for action in host.plan(settings={"size": 1 << 20}).actions] == []
    plan = host.plan(clients="one", rules=[{"id": "r", "ops": ["write"], "nth": 4}, {"id": "s", "ops": ["read"]}])
    assert [action.name for action in plan.actions] == ["unmount for two", "delete rule", "add rule", "add rule"]
    plan.run()
    control = host.control()
    assert [(rule["id"], rule.get("nth")) for rule in control.call("rule.list")] == [("r", 4), ("s", None)]
    control.close()
    assert json.dumps(plan.as_result())


def test_what_is_refused(host: Host) -> None:
    with refused(
        InvalidInput,
        says="rules: {'ops': ['write']} is not accepted: every rule needs an id, a text, by which it is found again.",
    ):
        host.plan(rules=[{"ops": ["write"]}])
    with refused(CommandFailed, names=["'sise'", "'size'"]):
        host.plan(settings={"sise": 5}).run()
    # The mount of the failed run is unmounted.
    assert not os.path.ismount(host.root / "one")
    host.plan().run()
    with refused(
        Conflict,
        says=f"The simulated datastore 'module' is mounted from '{host.root}/backing', not from '{host.root}': unmount "
        "it first.",
    ):
        host.plan(backing=str(host.root))
    with refused(CommandMissing, names=["'/nothing/simulated-datastore'"]):
        host.plan(executable="/nothing/simulated-datastore")


def test_the_info_module(host: Host) -> None:
    options = {
        "executable": str(host.program),
        "name": "module",
        "op": ["write"],
        "path": None,
        "client": "two",
        "rule": None,
        "since": None,
        "limit": 10,
    }
    assert read_simulated_datastore(options)["mounted"] is False
    host.plan().run()
    (host.root / "two/file").write_text("content")
    found = read_simulated_datastore(options)
    assert [(row["op"], row["path"], row["size"]) for row in found["ledger"]] == [("write", "/file", 7)]
    assert found["summary"] == [{"client": "two", "op": "write", "requests": 1, "bytes": 7, "errors": 0}]


def names(plan: Any) -> list[str]:
    return [action.name for action in plan.actions]


def in_time(work: Callable[[], Any], seconds: float = 60) -> Any:
    """Return the result of *work*, or fail after *seconds*. A process in state D can't be killed, so the test releases
    it.
    """
    pool = ThreadPoolExecutor(1)
    try:
        return pool.submit(work).result(seconds)
    finally:
        pool.shutdown(wait=False)


@pytest.mark.parametrize("link", [False, True])
def test_a_playbook_leaves_a_server_that_hangs(host: Host, link: bool) -> None:
    """Access the mount point by no path, because an access would hang, too."""
    root = host.root
    if link:
        root = host.root.with_name(host.root.name + "-link")
        root.symlink_to(host.root)
    mounts = [
        {
            "client": "one",
            "path": str(root / "one"),
            "profile": "nfs3",
            "squash": "none",
            "read_only": False,
            "strict": False,
        }
    ]
    desired = {"backing": str(root / "backing"), "mounts": mounts}
    host.partial(**desired).run()
    control = host.control()
    try:
        host.partial(settings={"state": "hung"}).run()
        # A program's access hangs, because the kernel has nothing cached.
        hanging = subprocess.Popen(["ls", str(host.root / "one")], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        control.call("wait_for", predicate={"parked": 1})
        before = control.call("ledger.mark", name="hung")
        assert not in_time(lambda: host.partial(**desired, settings={"state": "hung"})).changed
        assert names(in_time(lambda: host.partial(**desired, settings={"state": "up"}))) == ["set"]
        assert (
            read_simulated_datastore(
                {
                    "executable": str(host.program),
                    "name": "module",
                    "op": None,
                    "path": None,
                    "client": None,
                    "rule": None,
                    "since": str(before),
                    "limit": 10,
                }
            )["ledger"]
            == []
        )
        assert control.call("status")["parked"] == 1
        in_time(host.partial(**desired, settings={"state": "up"}).run)
        assert hanging.wait(20) == 0
        host.partial(settings={"state": "hung"}).run()
        again = [{**mounts[0], "squash": "root"}]
        in_time(host.partial(mounts=again).run)
        assert not in_time(lambda: host.partial(mounts=again)).changed
        in_time(host.partial(state="unmounted").run)
    finally:
        control.close()
        subprocess.run(["umount", "--force", "--lazy", str(host.root / "one")], check=False, capture_output=True)
        if link:
            root.unlink()


def test_other_datastores_are_none_of_its_business(host: Host) -> None:
    """A datastore that starts or ends, or is dead, changes nothing."""
    host.plan().run()
    other = host.root / "run/other"
    other.mkdir()
    (host.root / "run/a-file").touch()
    sleeper = subprocess.Popen(["sleep", "600"])
    try:
        started = int(Path(f"/proc/{sleeper.pid}/stat").read_text().rpartition(")")[2].split()[19])
        (other / "daemon.json").write_text(json.dumps({"pid": sleeper.pid, "started": started}))
        assert not host.plan().changed
        host.partial(settings={"size": "64K"}).run()
    finally:
        sleeper.kill()
        sleeper.wait()


@pytest.mark.parametrize(
    "settings",
    [
        {"size": "64K"},
        {"max_file": "1 MiB", "read": "10M", "write": "4096"},
        {"size": "1M", "quotas": [{"uid": 1000, "size": "64K"}]},
        {"quotas": []},
        {"quotas": None},
        {"latency": 0.25},
        {"latency": {}},
        {"latency": {"read": 0.5, "write": None}},
        {"state": "hung", "client": "two"},
        {"state": "slow", "delay": 2},
        {"read": None, "requests": 0},
        {"size": None, "error_at": None},
    ],
)
def test_what_is_set_is_set_once(host: Host, settings: dict[str, Any]) -> None:
    host.plan().run()
    host.partial(settings=settings).run()
    assert not host.partial(settings=settings).changed
    host.partial(settings={"state": "up"}).run()
    assert not host.partial(settings={"state": "up"}).changed


@pytest.mark.parametrize(
    "rule",
    [
        {"ops": "write,read", "error": "ENOSPC"},
        {"ops": ["mkdir"], "action": "delay", "delay": 1},
        {"ops": ["write"], "action": "torn", "keep": 4096, "nth": 2},
        {"ops": ["read"], "nth": None, "path": "*.raw"},
    ],
)
def test_a_rule_is_added_once_and_replaced_when_it_differs(host: Host, rule: dict[str, Any]) -> None:
    host.plan(rules=[{"id": "r", **rule}]).run()
    assert not host.partial(rules=[{"id": "r", **rule}]).changed
    # A removed key is a difference.
    assert names(host.partial(rules=[{"id": "r", "ops": rule["ops"], "times": 1}])) == ["delete rule", "add rule"]
    host.partial(rules=[{"id": "r", "ops": rule["ops"], "times": 1}]).run()
    assert names(host.partial(rules=[{"id": "r", "ops": rule["ops"]}])) == ["delete rule", "add rule"]


def test_a_mount_is_replaced_and_the_rest_stays(host: Host) -> None:
    host.plan(clients="one", settings={"size": "1M"}, rules=[{"id": "r", "ops": ["mkdir"]}]).run()
    mount = {
        "client": "one",
        "path": str(host.root / "one"),
        "profile": "local",
        "squash": "all",
        "read_only": True,
        "strict": True,
    }
    plan = host.partial(mounts=[mount])
    assert names(plan) == ["mount again for one"]
    plan.run()
    assert not host.partial(mounts=[mount]).changed
    assert "ro" in subprocess.run(
        ["findmnt", "-no", "OPTIONS", mount["path"]], capture_output=True, text=True, check=True
    ).stdout.split(",")
    assert os.statvfs(mount["path"]).f_blocks == 256
    moved = {**mount, "path": str(host.root / "two/below"), "squash": None, "read_only": False}
    host.partial(mounts=[moved]).run()
    assert os.path.ismount(moved["path"])
    assert not os.path.ismount(mount["path"])
    with refused(OSError, errno=errno.EIO):
        (host.root / "two/below/dir").mkdir()
    # A refused new mount leaves the old mount.
    with refused(CommandFailed, names=["mount_point", f"'{host.root}/backing'"]):
        host.partial(mounts=[{**moved, "path": str(host.root / "backing")}]).run()
    assert os.path.ismount(moved["path"])


def test_exports(host: Host) -> None:
    backing = str(host.root / "new/backing")
    export = {"source": "nfs1:/images", "profile": None, "squash": "none"}
    host.partial(backing=backing, exports=[export]).run()
    assert not host.partial(backing=backing, exports=[export]).changed
    assert host.partial(exports=[export], mounts=[]).actions == []
    assert names(host.partial(exports=[{**export, "profile": "nfs3"}])) == ["export"]
    host.partial(
        exports=[{**export, "profile": "nfs3"}, {"source": "nfs1:/more", "profile": None, "squash": None}]
    ).run()
    assert names(host.partial(exports=[{**export, "profile": "nfs3"}])) == ["end export"]
    host.partial(
        mounts=[
            {
                "client": "one",
                "path": str(host.root / "one"),
                "profile": "local",
                "squash": None,
                "read_only": False,
                "strict": False,
            }
        ]
    ).run()
    # A datastore ends with its last mount and export.
    host.partial(exports=[], mounts=[]).run()
    with refused(
        InvalidInput,
        says="backing is missing: the simulated datastore 'module' doesn't exist yet, so the directory that holds its "
        "files is needed.",
    ):
        host.partial(settings={"size": 4096})

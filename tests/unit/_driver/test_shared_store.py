# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""Datastores on shared file systems, which the simulated datastore represents. NFS itself is tested in the lab."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import (
    Conflict,
    DependencyMissing,
    InvalidInput,
    TimedOut,
)
from ansible_collections.granary.vmstore.plugins.module_utils._driver.datastore import shared_store
from ansible_collections.granary.vmstore.plugins.module_utils._driver.datastore.fs import FsDriver
from ansible_collections.granary.vmstore.plugins.module_utils._driver.datastore.shared_store import read_nfs_auto
from ansible_collections.granary.vmstore.plugins.module_utils._host.mount import store
from ansible_collections.granary.vmstore.plugins.module_utils._host.mount.mountinfo import Mount
from ansible_collections.granary.vmstore.plugins.module_utils._model.datastore import Datastore
from refusal import refused

MARKER = "0d0a3a9c-40a4-4c80-a35c-fd3b5b5b1c2e"
OTHER = "e9d2f3f0-0f6c-4f0e-9a52-7ad9a0b1c2d3"

#: Seconds after which a hung store is given up.
SHORT = 2

ACTIONS: dict[str, Callable[[FsDriver], object]] = {
    "mkfs": lambda driver: driver.mkfs(1, "raw", None),
    "monitor": lambda driver: driver.monitor(),
    "prepare": lambda driver: driver.prepare(),
    "inventory": lambda driver: driver.inventory(),
    "stored": lambda driver: driver.stored(),
    "sweep": lambda driver: driver.sweep(),
    "rm": lambda driver: driver.rm(f"{driver.datastore.base_path}/{'0' * 32}"),
    "preview_mkfs": lambda driver: driver.preview_mkfs(1, "raw", None),
    "snapshots": lambda driver: driver.snapshots(f"{driver.datastore.base_path}/{'0' * 32}"),
}


def driver_at(path: Path, *, timeout: float = 60, **options: Any) -> FsDriver:
    datastore = Datastore(100, "nas", "image", "fs", "shared", str(path), **{"shared": True, **options})
    return FsDriver(datastore, timeout=timeout)


@pytest.mark.parametrize("action", ACTIONS)
def test_a_local_directory_is_never_used(tmp_path: Path, action: str) -> None:
    with pytest.raises(DependencyMissing):
        ACTIONS[action](driver_at(tmp_path / "100"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("action", ACTIONS)
def test_a_mounted_store_is_used(datastore: Any, action: str) -> None:
    driver = driver_at(datastore.path() / "100")
    driver.prepare()
    ACTIONS[action](driver)
    assert len(os.listdir(datastore.backing / "100")) == (1 if action == "mkfs" else 0)


@pytest.mark.parametrize("action", ACTIONS)
def test_a_store_with_another_marker_is_never_used(datastore: Any, action: str) -> None:
    (datastore.backing / "100").mkdir()
    driver = driver_at(datastore.path() / "100", marker=MARKER)
    with pytest.raises(Conflict):
        ACTIONS[action](driver)
    store.create_marker(str(datastore.path()), OTHER)
    with refused(Conflict, names=[OTHER]):
        ACTIONS[action](driver)
    assert os.listdir(datastore.backing / "100") == []


def test_the_store_with_the_marker_is_used(datastore: Any) -> None:
    store.create_marker(str(datastore.path()), MARKER)
    driver = driver_at(datastore.path() / "100", marker=MARKER)
    driver.prepare()
    assert Path(driver.mkfs(1, "raw", None)).stat().st_size == 1 << 20


def test_a_store_that_is_unmounted_meanwhile(datastore_factory: Callable[..., Any]) -> None:
    """The driver checks before each action, not only before the first."""
    datastore = datastore_factory({"host1": {}, "host2": {}})
    driver = driver_at(datastore.path("host2") / "100")
    driver.prepare()
    driver.mkfs(1, "raw", None)
    datastore.control.call("umount", client="host2")
    with pytest.raises(DependencyMissing):
        driver.mkfs(1, "raw", None)
    assert os.listdir(datastore.path("host2")) == []


def test_a_link_to_a_mounted_store(datastore: Any, tmp_path: Path) -> None:
    (datastore.path() / "100").mkdir()
    (tmp_path / "100").symlink_to(datastore.path() / "100")
    assert Path(driver_at(tmp_path / "100").mkfs(1, "raw", None)).parent == tmp_path / "100"


@pytest.mark.parametrize("options", [{}, {"marker": MARKER}])
@pytest.mark.parametrize("action", ["mkfs", "monitor", "rm"])
def test_a_store_that_hangs_is_an_error_in_time(datastore: Any, action: str, options: dict[str, str]) -> None:
    (datastore.path() / "100").mkdir()
    driver = driver_at(datastore.path() / "100", timeout=SHORT, **options)
    datastore.set(state="hung")
    with pytest.raises(TimedOut):
        ACTIONS[action](driver)
    datastore.set(state="up")
    assert os.listdir(datastore.backing / "100") == []


@pytest.mark.parametrize(
    ("host", "path", "opts", "source", "words"),
    [
        ("nfs1", "/srv/one/", "", "nfs1:/srv/one", ["vers=4.2", "hard"]),
        ("192.0.2.1", "/srv", "soft,intr,rsize=32768", "192.0.2.1:/srv", ["soft", "intr", "rsize=32768", "vers=4.2"]),
        ("2001:db8::1", "/", "defaults", "[2001:db8::1]:/", ["vers=4.2", "hard"]),
    ],
)
def test_attributes_of_a_datastore_that_the_driver_mounts(
    host: str, path: str, opts: str, source: str, words: list[str]
) -> None:
    attributes = {"nfs_auto_enable": "YES", "nfs_auto_host": host, "nfs_auto_path": path, "nfs_auto_opts": opts}
    found, options = read_nfs_auto(attributes, str.upper)
    assert found == source
    assert [word for word in options if not word.startswith("nconnect")] == words


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"nfs_auto_host": ""}, "NFS_AUTO_HOST"),
        ({"nfs_auto_path": " "}, "NFS_AUTO_PATH"),
        ({"nfs_auto_path": "srv"}, "NFS_AUTO_HOST"),
        ({"nfs_auto_host": "nfs;reboot"}, "NFS_AUTO_HOST"),
        ({"nfs_auto_opts": "suid,exec=1"}, "NFS_AUTO_OPTS"),
        ({"nfs_auto_opts": "bind"}, "NFS_AUTO_OPTS"),
    ],
)
def test_attributes_that_can_not_be_used(changed: dict[str, str], named: str) -> None:
    attributes = {"nfs_auto_host": "nfs1", "nfs_auto_path": "/srv", **changed}
    with pytest.raises(InvalidInput) as caught:
        read_nfs_auto(attributes, str.upper)
    assert caught.value.option == named


def test_a_datastore_that_the_driver_mounts_is_not_mounted_in_check_mode(tmp_path: Path) -> None:
    attributes = {"nfs_auto_enable": "yes", "nfs_auto_host": "nfs1", "nfs_auto_path": "/srv"}
    driver = driver_at(tmp_path / "100", shared=False, attributes=attributes)
    with pytest.raises(DependencyMissing):
        driver.monitor()
    assert list(tmp_path.iterdir()) == []


def test_a_store_that_another_action_mounts_at_the_same_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mount of this action fails, on a machine without a server. The table then has that of the other action."""
    point = str(tmp_path / "100")
    other = Mount(9, 1, "0:9", "/", point, ("rw",), "nfs4", "127.0.0.1:/srv", ("rw", "vers=4.2"))
    tables = iter([[]])
    monkeypatch.setattr(shared_store, "read_mounts", lambda: next(tables, [other]))
    attributes = {"nfs_auto_enable": "yes", "nfs_auto_host": "127.0.0.1", "nfs_auto_path": "/srv"}
    driver = driver_at(tmp_path / "100", shared=False, attributes=attributes)
    driver.may_mount = True
    driver.prepare()
    assert os.listdir(tmp_path) == ["100"]

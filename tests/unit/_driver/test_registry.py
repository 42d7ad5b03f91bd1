# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""The classes of drivers: each datastore has one class, and the other classes aren't loaded."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import InvalidInput
from ansible_collections.granary.vmstore.plugins.module_utils._driver.datastore.registry import (
    DATASTORE_DRIVERS,
    class_for,
    driver_class,
    new_driver,
)
from ansible_collections.granary.vmstore.plugins.module_utils._model.datastore import Datastore

U = driver_class.__module__


def datastore(driver: str | None, *hosts: str) -> Datastore:
    return Datastore(100, "x", "image", driver, "shared", "/ds/100", bridge_list=hosts)


@pytest.mark.parametrize(
    ("driver", "hosts", "expected"),
    [
        ("fs", (), "FsDriver"),
        ("fs", ("h1",), "BridgedFsDriver"),
        ("virtiofs", (), "VirtiofsDriver"),
        ("virtiofs", ("h1",), "VirtiofsDriver"),
        (None, (), "SystemDriver"),
        (None, ("h1",), "BridgedSystemDriver"),
    ],
)
def test_the_class_of_a_datastore(driver: str | None, hosts: tuple[str, ...], expected: str) -> None:
    assert class_for(datastore(driver, *hosts)).__name__ == expected
    assert type(new_driver(datastore(driver, *hosts))).__name__ == expected


def test_every_name_has_a_class_of_that_name() -> None:
    assert {name: driver_class(name).info.name for name in DATASTORE_DRIVERS} == {
        name: name for name in DATASTORE_DRIVERS
    }


@pytest.mark.parametrize("name", ["", "ceph", "FS", "system", "__class__"])
def test_another_name(name: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        class_for(datastore(name))
    assert (caught.value.option, caught.value.value) == ("ds_driver", name)


def test_only_a_bridged_datastore_can_not_be_read_here() -> None:
    own, bridged = driver_class("fs").info, driver_class("fs", is_bridged=True).info
    assert own.actions - bridged.actions == {"content"}
    assert bridged.actions < own.actions


@pytest.mark.parametrize(
    ("driver", "hosts", "unwanted"),
    [("fs", (), ("virtiofs", "bridge", "_remote")), ("virtiofs", ("h1",), ("datastore.fs", "bridge", "_remote"))],
)
def test_what_a_driver_loads(driver: str, hosts: tuple[str, ...], unwanted: Any) -> None:
    program = (
        f"from {U} import class_for\nfrom {Datastore.__module__} import Datastore\n"
        f"class_for(Datastore(100, 'x', 'image', {driver!r}, 'shared', '/ds/100', bridge_list={hosts!r}))\n"
        "import sys\nprint(*sys.modules)"
    )
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert any(name.endswith(f"datastore.{driver}") for name in loaded)
    assert [name for name in loaded if any(one in name for one in unwanted)] == []

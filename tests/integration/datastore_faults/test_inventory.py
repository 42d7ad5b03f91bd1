# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""The inventory of a datastore whose file system fails or hangs."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._catalog.catalog import open_catalog
from ansible_collections.granary.vmstore.plugins.module_utils._catalog.datastores import DATASTORES
from ansible_collections.granary.vmstore.plugins.module_utils._core import records
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import (
    FileAccessFailed,
    TimedOut,
)
from ansible_collections.granary.vmstore.plugins.module_utils._driver.datastore.fs import FsDriver
from ansible_collections.granary.vmstore.plugins.module_utils._model.datastore import Datastore
from ansible_collections.granary.vmstore.plugins.module_utils._service.datastore.info import datastore_info
from refusal import refused
from simulated_datastore.testing import FaultRule

FIRST, SECOND = "a" * 32, "b" * 32


def driver(directory: Path, timeout: float = 60) -> FsDriver:
    return FsDriver(Datastore(1, "default", "image", "fs", "local", str(directory)), timeout=timeout)


def test_data_that_cannot_be_read(datastore_factory) -> None:
    datastore = datastore_factory({"host1": {"strict": True}})
    directory = datastore.path()
    for name in (FIRST, SECOND):
        (directory / name).write_bytes(b"data")
    with datastore.fault("read", errno.EIO, path=FIRST):
        first, second = driver(directory).inventory().images
        assert (first.virtual_size("qcow2"), first.error) == (
            None,
            f"Could not read {directory}/{FIRST}: Input/output error.",
        )
        assert (second.virtual_size("raw"), second.error) == (4, None)
        with refused(FileAccessFailed, names=[directory / FIRST, os.strerror(errno.EIO)]):
            driver(directory).inventory({f"{directory}/{FIRST}": "sha256"})


@pytest.mark.parametrize("operation", ["opendir", "readdir", "open", "read", "close"])
def test_a_server_that_stops_answering(datastore_factory, operation: str) -> None:
    datastore = datastore_factory({"host1": {"strict": True}})
    directory = datastore.path()
    (directory / FIRST).write_bytes(b"x" * (5 << 20))
    # With the operation read, the server hangs at the request for the second piece of data.
    rule = FaultRule(
        datastore.control,
        datastore.control.call("rule.add", ops=[operation], action="hang", after=2 if operation == "read" else 0),
    )
    with refused(TimedOut, names=[directory, "1 seconds"]):
        driver(directory, 1).inventory({f"{directory}/{FIRST}": "sha256"})
    assert rule.hits
    # The process whose request hung ends when the server is back.
    rule.delete()
    os.waitpid(-1, 0)


def test_a_server_that_stops_answering_half_way_is_not_waited_for_twice(datastore_factory, tmp_path: Path) -> None:
    datastore = datastore_factory()
    path = str(tmp_path / "catalog.sqlite")
    with open_catalog(path, create=True, datastore_location=str(tmp_path)) as catalog, catalog.transaction():
        DATASTORES.update(catalog, records.replace(DATASTORES.find(catalog, 1), base_path=str(datastore.path())))
    datastore.control.call("rule.add", ops=["statfs"], action="delay", delay=2)
    rule = FaultRule(datastore.control, datastore.control.call("rule.add", ops=["opendir"], action="hang"))
    (found,) = datastore_info({"catalog": path, "name": "1", "timeout": 3, "vms": False})["datastores"]
    assert (
        found["monitor_error"]
        == f"Reading the directory {datastore.path()} did not end within 1 seconds and was stopped."
    )
    assert found["total_mb"] > 0
    rule.delete()
    os.waitpid(-1, 0)

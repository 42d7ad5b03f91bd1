# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import time
from pathlib import Path

from ansible_collections.granary.vmstore.plugins.module_utils._catalog.catalog import open_catalog
from ansible_collections.granary.vmstore.plugins.module_utils._catalog.datastores import DATASTORES
from ansible_collections.granary.vmstore.plugins.module_utils._model.datastore import Datastore
from ansible_collections.granary.vmstore.plugins.module_utils._service.datastore.info import datastore_info
from simulated_datastore.testing import SimulatedDatastore


def test_datastores_on_a_dead_server_take_the_time_once(datastore: SimulatedDatastore, tmp_path: Path) -> None:
    number = 20
    catalog = str(tmp_path / "catalog.sqlite")
    (tmp_path / "1").mkdir()
    with open_catalog(catalog, create=True, datastore_location=str(tmp_path)) as made, made.transaction():
        for one in range(number):
            (datastore.path() / str(one)).mkdir()
            row = Datastore(
                made.take_id("datastore"), f"nas{one}", "image", "fs", "shared", f"{datastore.path()}/{one}"
            )
            DATASTORES.insert(made, row)
    datastore.set(state="hung")
    start = time.monotonic()
    found = datastore_info({"catalog": catalog, "name": None, "timeout": 2, "vms": False})["datastores"]
    assert time.monotonic() - start < 2 * number  # a generous bound: one by one they take longer
    datastore.set(state="up")
    assert [one["name"] for one in found if "is away" in str(one["monitor_error"])] == [
        f"nas{one}" for one in range(number)
    ]
    assert next(one for one in found if one["name"] == "default")["total_mb"] > 0

# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""The engine for another host: its modules follow from the imports, and no code runs to find them."""

from __future__ import annotations

import io
import subprocess
import sys
import zipfile
import zlib

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._driver.datastore import bridge_protocol
from ansible_collections.granary.vmstore.plugins.module_utils._remote import engine


@pytest.fixture(scope="module")
def shipped() -> list[str]:
    """Return the modules of an archive for a bridge."""
    with zipfile.ZipFile(io.BytesIO(zlib.decompress(engine.pack_engine(bridge_protocol.__name__)))) as archive:
        return [name.partition("/")[2] for name in archive.namelist()]


def test_a_bridge_gets_what_its_actions_need(shipped: list[str]) -> None:
    assert {
        "_driver/datastore/image_directory.py",
        "_driver/datastore/receiving.py",
        "_image/copy.py",
        "_image/download.py",
        "_remote/serve.py",
    } <= set(shipped)
    assert len(shipped) == len(set(shipped))


def test_a_bridge_gets_nothing_of_the_front_end(shipped: list[str]) -> None:
    assert [name for name in shipped if name.startswith(("_catalog", "_service", "_face"))] == []
    assert {
        "_driver/datastore/attributes.py",
        "_driver/datastore/bridge.py",
        "_driver/datastore/fs.py",
        "_driver/datastore/local_source.py",
        "_driver/datastore/source_file.py",
        "_driver/datastore/virtiofs.py",
        "_driver/datastore/registry.py",
        "_host/directory.py",
        "_image/batch.py",
        "_remote/engine.py",
        "_remote/session.py",
        "_remote/tree_peer.py",
    }.isdisjoint(shipped)


def test_packing_runs_no_module() -> None:
    program = (
        f"from {engine.__name__} import engine_sources\n"
        f"import sys\nbefore = set(sys.modules)\nassert engine_sources({bridge_protocol.__name__!r})\n"
        "print(*[name for name in set(sys.modules) - before if sys.modules[name].__spec__.submodule_search_locations "
        "is None and 'module_utils' in name])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "\n"


def test_the_package_can_be_imported(tmp_path: object) -> None:
    path = f"{tmp_path}/engine.zip"
    with open(path, "wb") as file:
        file.write(zlib.decompress(engine.pack_engine(bridge_protocol.__name__)))
    program = (
        f"import sys; sys.path.insert(0, {path!r})\n"
        f"from {engine.ENGINE}._driver.datastore import bridge_protocol, receiving\n"
        "print(receiving.HANDLERS.keys() == bridge_protocol.OPERATIONS.keys())"
    )
    done = subprocess.run([sys.executable, "-ISc", program], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"

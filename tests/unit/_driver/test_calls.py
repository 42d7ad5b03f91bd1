# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""Recorded calls of a real front-end (calls/*.json: its XML and the replies of its drivers), repeated with
our drivers.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import UnsupportedAction, VmstoreError
from ansible_collections.granary.vmstore.plugins.module_utils._driver.datastore.base import Capacity, CopyOptions
from ansible_collections.granary.vmstore.plugins.module_utils._driver.datastore.registry import new_driver
from ansible_collections.granary.vmstore.plugins.module_utils._model.datastore import Datastore
from refusal import refused

CALLS = Path(__file__).parent / "calls"
TYPES = {"0": "image", "1": "system", "2": "file", "3": "backup"}

# Commands that create the recorded directories on file systems of this test's own.
ENTER = """
mount -t tmpfs tmpfs /var/tmp && mkdir -p /var/tmp/files/shared_tree
head -c 3500000 /dev/zero > /var/tmp/files/shared_tree/data
touch /var/tmp/files/raw64.img
mount -t tmpfs tmpfs /var/lib && mkdir -p /var/lib/one/datastores/106
exec "$@"
"""


def driver_of(document: ElementTree.Element):
    found = document.find("DATASTORE")
    text = found.findtext
    return new_driver(
        Datastore(
            int(text("ID")),
            text("NAME"),
            TYPES[text("TYPE")],
            text("DS_MAD"),
            text("TM_MAD"),
            text("BASE_PATH"),
            safe_dirs=tuple((text("TEMPLATE/SAFE_DIRS") or "").split()),
            restricted_dirs=tuple((text("TEMPLATE/RESTRICTED_DIRS") or "").split()),
        )
    )


def answer(call: dict) -> str:
    """Return our driver's result in the format of the recorded reply."""
    document = ElementTree.fromstring(call["stdin_xml"])
    driver = driver_of(document)
    try:
        if call["action"] == "cp":
            copied = driver.cp(document.findtext("IMAGE/PATH"), CopyOptions("filesystem"))
            return f"{copied.source} {copied.format}\n"
        if call["action"] == "stat":
            return f"{driver.stat(document.findtext('IMAGE/PATH'))}\n"
        if call["action"] == "monitor":
            capacity = driver.monitor()
            return f"USED_MB={capacity.used_mb}\nTOTAL_MB={capacity.total_mb}\nFREE_MB={capacity.free_mb}\n"
        if call["action"] == "rm":
            driver.rm(document.findtext("IMAGE/SOURCE"))
            return ""
        driver.require(call["action"])
        return "supported"
    except VmstoreError as error:
        return f"{type(error).__name__}: {error}"


def answers(name: str) -> tuple[dict, str]:
    """Return the recorded call, and our reply to the call with the recorded directories."""
    command = ["unshare", "-m", "sh", "-ec", ENTER, "sh", sys.executable, __file__, str(CALLS / name)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads((CALLS / name).read_text()), json.loads(done.stdout)


@pytest.mark.parametrize("name", ["cp-2", "cp-3", "monitor-1", "rm-1"])
def test_the_answer_is_the_recorded_one(name: str) -> None:
    call, ours = answers(f"datastore-virtiofs-{name}.json")
    assert call["rc"] == 0
    assert ours == call["stdout"]


def test_the_directory_of_all_datastores_is_refused() -> None:
    call, ours = answers("datastore-virtiofs-cp-1.json")
    assert call["error_message"].startswith("Not allowed to use directory '/var/lib/one/datastores'")
    assert ours.startswith(
        "PathNotAllowed: path: '/var/lib/one/datastores' is not accepted: it lies in the restricted directory /var"
    )


def test_an_empty_image_can_not_be_made() -> None:
    call, ours = answers("datastore-virtiofs-mkfs-1.json")
    assert call["rc"] != 0
    assert ours == "UnsupportedAction: mkfs is not supported by the virtiofs driver."


@pytest.mark.parametrize(("name", "path"), [("stat-1", "/etc"), ("stat-3", "/var/lib/one/datastores")])
def test_what_cp_refuses_is_not_measured(name: str, path: str) -> None:
    call, ours = answers(f"datastore-virtiofs-{name}.json")
    assert call["rc"] == 0
    assert ours.startswith(f"PathNotAllowed: path: '{path}' is not accepted: it ")


def test_a_file_has_no_size_here() -> None:
    call, ours = answers("datastore-virtiofs-stat-2.json")
    assert call["stdout"] == "0\n"  # the recorded driver treated it as an empty directory
    assert ours.startswith(
        "InvalidInput: path: '/var/tmp/files/raw64.img' is not accepted: a directory on the front-end or on a host"
    )


def test_fs_monitors_in_the_same_words_what_df_finds(tmp_path: Path) -> None:
    call = json.loads((CALLS / "datastore-fs-monitor-1.json").read_text())
    document = ElementTree.fromstring(call["stdin_xml"])
    document.find("DATASTORE/BASE_PATH").text = str(tmp_path)
    found = driver_of(document).monitor()
    total, used = (
        int(word)
        for word in subprocess.run(
            ["df", "-B1", "--output=size,used", tmp_path], capture_output=True, text=True, check=True
        ).stdout.split()[-2:]
    )
    assert found.total_mb == total // 2**20
    assert abs(found.used_mb - used // 2**20) <= 64  # other processes write too
    assert 0 <= found.free_mb <= found.total_mb - found.used_mb


@pytest.mark.parametrize("action", ["backup", "clone", "disk-attach", "mkfs", "resize", "save-as", "snapshot"])
def test_what_the_spec_rules_out_has_one_sentence(action: str) -> None:
    driver = new_driver(Datastore(100, "x", "image", "virtiofs", "virtiofs", "/ds/100"))
    with refused(UnsupportedAction, says=f"{action} is not supported by the virtiofs driver."):
        driver.require(action)


def test_a_virtiofs_datastore_has_no_capacity() -> None:
    assert new_driver(Datastore(100, "x", "image", "virtiofs", "virtiofs", "/ds/100")).monitor() == Capacity(0, 0, 0)


if __name__ == "__main__":
    json.dump(answer(json.loads(Path(sys.argv[1]).read_text())), sys.stdout)

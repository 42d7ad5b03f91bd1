# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""VM directories that a lying host sends."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core.directory import opened_directory
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import TransferFailed
from ansible_collections.granary.vmstore.plugins.module_utils._driver.transfer.host_actions import HostActions
from ansible_collections.granary.vmstore.plugins.module_utils._driver.transfer.local_peer import LocalSender
from ansible_collections.granary.vmstore.plugins.module_utils._remote.tree import Source
from refusal import refused


def receive(tmp_path: Path, names: Mapping[str, str]) -> None:
    """Receive files of the directory ``sent`` as the directory of the VM 5."""
    with opened_directory(str(tmp_path / "sent")) as directory:
        sender = LocalSender(Source(directory, str(tmp_path / "sent"), names))
        HostActions(sender, str, print).receive_directory(f"{tmp_path}/100/5", None)


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """Return the disk of the VM 6, which has a directory beside the new one."""
    (disk := tmp_path / "100" / "6" / "disk.0").parent.mkdir(parents=True)
    disk.write_text("precious")
    (tmp_path / "sent" / "directory").mkdir(parents=True)
    (tmp_path / "sent" / "directory" / "disk.0").write_text("new")
    (tmp_path / "sent" / "file").touch()
    return disk


def test_the_directory_of_the_vm_arrives(tmp_path: Path, other: Path) -> None:
    receive(tmp_path, {"directory": "5"})
    assert (tmp_path / "100" / "5" / "disk.0").read_text() == "new"
    assert other.read_text() == "precious"


@pytest.mark.parametrize(
    "names", [{"directory": "6"}, {"directory": "5", "file": "6"}, {"file": "5"}, {"file": "5", "directory": "6"}]
)
def test_other_files_are_refused(tmp_path: Path, other: Path, names: dict[str, str]) -> None:
    with refused(TransferFailed, names=[f"{tmp_path}/100/5"]):
        receive(tmp_path, names)
    assert os.listdir(tmp_path / "100") == ["6"]
    assert other.read_text() == "precious"

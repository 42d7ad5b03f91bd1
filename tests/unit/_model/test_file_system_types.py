# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._model.file_system_types import is_shared_type


@pytest.mark.parametrize(
    "file_system",
    [
        "nfs",
        "nfs4",
        "cifs",
        "smb3",
        "ceph",
        "glusterfs",
        "fuse.glusterfs",
        "fuse.sshfs",
        "fuse",
        "lustre",
        "9p",
        "virtiofs",
    ],
)
def test_network_file_systems(file_system: str) -> None:
    assert is_shared_type(file_system)


@pytest.mark.parametrize(
    "file_system", ["ext4", "xfs", "btrfs", "zfs", "tmpfs", "overlay", "fuseblk", "fuse.fuse-overlayfs"]
)
def test_local_file_systems(file_system: str) -> None:
    assert not is_shared_type(file_system)

# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._catalog.file_system import check_local, type_of

MOUNTINFO = """\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw,errors=remount-ro
222 22 0:45 / /mnt/nfs rw,relatime shared:120 master:3 - nfs4 server:/export\\040dir rw,vers=4.2
2 22 0:46 / /mnt/bare rw - virtiofs tag rw
"""


@pytest.mark.parametrize(("mount_id", "file_system"), [(22, "ext4"), (222, "nfs4"), (2, "virtiofs"), (5, "unknown")])
def test_the_type_is_that_of_the_mount_with_this_id(mount_id: int, file_system: str) -> None:
    assert type_of(MOUNTINFO, mount_id) == file_system


def test_a_directory_on_a_local_disk_is_accepted(tmp_path: Path) -> None:
    check_local(str(tmp_path))


CATALOG_THERE = """
import sys
from ansible_collections.granary.vmstore.plugins.module_utils._catalog.catalog import open_catalog
try:
    open_catalog(sys.argv[1] + "/catalog.sqlite", create=True)
except Exception as error:
    print(type(error).__name__, error)
"""


def test_a_catalog_on_a_network_file_system_is_refused_without_asking_its_server(tmp_path: Path) -> None:
    hung = Path(__file__).parents[2] / "hung_mount.py"
    (tmp_path / "remote").mkdir()
    command = [
        sys.executable,
        hung,
        tmp_path / "remote",
        "fuse.sshfs",
        sys.executable,
        "-c",
        CATALOG_THERE,
        tmp_path / "remote",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == (
        f"CatalogFailed The catalog can't be in {tmp_path}/remote, which is on the network file system 'fuse.sshfs': "
        "file locks are not dependable there and two writers would damage it, so name a directory on a local disk of "
        "the front-end.\n"
    )

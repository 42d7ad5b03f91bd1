# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""Makes `ansible_collections.granary.vmstore` importable, wherever the checkout is.

`ansible_collections` and `granary` are namespace packages, so one symbolic link in a directory on the import path is all that is needed.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
COLLECTIONS = ROOT / ".cache" / "collections"


def link_collection() -> None:
    """The same link that script/lib.sh makes."""
    link = COLLECTIONS / "ansible_collections" / "granary" / "vmstore"
    link.parent.mkdir(parents=True, exist_ok=True)
    if not link.is_symlink():
        link.symlink_to(os.path.relpath(ROOT, link.parent), target_is_directory=True)


# Tests look at what files take on a disk, and /tmp may be memory, as on a new Debian 13.
tempfile.tempdir = os.environ["TMPDIR"] = "/var/tmp"
link_collection()
sys.path.insert(0, str(COLLECTIONS))
# Tests also start Python and Ansible as processes of their own.
os.environ["PYTHONPATH"] = str(COLLECTIONS)
os.environ["ANSIBLE_COLLECTIONS_PATH"] = str(COLLECTIONS)

# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""The class of an error in a playbook, on a full file system."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import ansible_process
import pytest
import yaml
from ansible_collections.granary.vmstore.plugins.module_utils._catalog.catalog import open_catalog
from documentation import block

PLAYBOOK = Path(sys.executable).with_name("ansible-playbook")


@pytest.mark.parametrize("size", ["1m", "16m"])
def test_a_playbook_compares_the_class(tmp_path: Path, size: str) -> None:
    """The play of the page, with a file on a file system of 1 MiB and on a larger one."""
    (source := tmp_path / "golden.img").write_bytes(os.urandom(4 << 20))
    (location := tmp_path / "datastores").mkdir()
    catalog = str(tmp_path / "catalog.sqlite")
    (play,) = yaml.safe_load(
        block("docs/errors.md", "Errors of modules").text.replace("/var/tmp/golden.qcow2", str(source))
    )
    play |= {"hosts": "localhost", "connection": "local", "gather_facts": False}
    play["module_defaults"] = {"group/granary.vmstore.vmstore": {"catalog": catalog}}
    (tmp_path / "play.yml").write_text(json.dumps([play]))
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tests", location], check=True)
    try:
        open_catalog(catalog, create=True, datastore_location=str(location)).close()
        done = ansible_process.run([str(PLAYBOOK), "-i", "localhost,", str(tmp_path / "play.yml")])
        assert done.returncode == 0, done.stdout + done.stderr
        assert ("rescued=1" in done.stdout) == (size == "1m"), done.stdout
    finally:
        subprocess.run(["umount", location], check=True)

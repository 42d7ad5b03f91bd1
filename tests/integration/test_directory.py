# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module directory on this machine, below a directory of another user."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import ansible_process
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import (
    NotFound,
    PathNotAllowed,
)
from refusal import require_failure

ANSIBLE = Path(sys.executable).with_name("ansible")


def run(*, check: bool = False, **options: str) -> dict[str, Any]:
    command = [
        ANSIBLE,
        "localhost",
        "-i",
        "localhost,",
        "-c",
        "local",
        "-m",
        "granary.vmstore.directory",
        "-a",
        json.dumps(options),
        "--diff",
    ]
    environment = {
        **os.environ,
        "ANSIBLE_LOAD_CALLBACK_PLUGINS": "1",
        "ANSIBLE_STDOUT_CALLBACK": "ansible.builtin.minimal",
        "ANSIBLE_NOCOLOR": "1",
    }
    done = ansible_process.run([*command, *(["--check"] if check else [])], environment=environment)
    return json.loads(done.stdout[done.stdout.index("=> {") + 3 :])


def facts(path: Path) -> str:
    return subprocess.run(
        ["stat", "--format=%F %u:%g %a", path], capture_output=True, text=True, check=True
    ).stdout.strip()


def test_check_run_run_and_check(tenant: Path) -> None:
    owner = str(tenant.stat().st_uid)
    options = {"path": str(tenant / "a" / "datastores"), "owner": owner, "group": "daemon", "mode": "0750"}
    wanted = {"owner": owner, "group": "daemon", "mode": "0750"}
    foretold = run(check=True, **options)
    assert os.listdir(tenant) == []
    made, again, still = run(**options), run(**options), run(check=True, **options)
    assert [result["changed"] for result in (foretold, made, again, still)] == [True, True, False, False]
    assert (
        foretold["actions"]
        == made["actions"]
        == [{"name": "create directory", "subject": options["path"], "before": None, "after": wanted}]
    )
    assert made["directory"] == again["directory"] == {"path": options["path"], **wanted}
    assert facts(tenant / "a" / "datastores") == f"directory {owner}:1 750"
    assert facts(tenant / "a") == f"directory {owner}:65534 755"


def test_an_account_that_is_missing_is_foretold(tenant: Path) -> None:
    """The role that creates the account runs in check mode too."""
    options = {"path": str(tenant / "a"), "owner": "nosuch"}
    assert run(check=True, **options)["changed"]
    require_failure(run(**options), NotFound, names=["owner", "'nosuch'"])
    assert os.listdir(tenant) == []


def test_a_link_to_a_directory_of_root_gives_nothing_away(tenant: Path, tmp_path: Path) -> None:
    owner = tenant.stat().st_uid
    (tenant / "datastores").symlink_to(tmp_path)
    os.chown(tenant / "datastores", owner, owner, follow_symlinks=False)
    before = facts(tmp_path)
    for check in (True, False):
        result = run(check=check, path=str(tenant / "datastores"), owner=str(owner), mode="0777")
        require_failure(result, PathNotAllowed, option="path", names=[f"'{tenant}/datastores'"])
    assert facts(tmp_path) == before

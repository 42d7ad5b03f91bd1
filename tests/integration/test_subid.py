# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module ``subid`` on a whole /etc: an overlay in a mount namespace, so that the machine's files stay unchanged."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import (
    Conflict,
    NoSpace,
    UnsupportedAction,
)
from refusal import require_failure

USER = "granary-subid"
ENTER = (
    'mount -t overlay overlay -o "lowerdir=/etc,upperdir=$1/layer/upper,workdir=$1/layer/work" /etc && shift && exec '
    '"$@"'
)

# A libsubid plugin (subid.h of shadow-utils) that grants 700000:100 to every user.
PLUGIN = """
#include <stdbool.h>
#include <stdlib.h>
#include <sys/types.h>
struct range { unsigned long start, count; };
int shadow_subid_list_owner_ranges(const char *owner, int type, struct range **ranges, int *count)
{ *ranges = malloc(sizeof **ranges); (*ranges)->start = 700000; (*ranges)->count = 100; *count = 1; return 0; }
int shadow_subid_has_range(const char *owner, unsigned long start, unsigned long count, int type, bool *result)
{ *result = true; return 0; }
int shadow_subid_find_subid_owners(unsigned long id, int type, uid_t **uids, int *count) { *count = 0; return 0; }
void shadow_subid_free(void *p) { free(p); }
"""


def make_layer(directory: Path) -> None:
    for name in ("upper", "work"):
        (directory / "layer" / name).mkdir(parents=True)


@pytest.fixture
def etc(tmp_path: Path) -> Callable[..., str]:
    """Run a command with a copy-on-write /etc, which exists until the end of the test."""
    make_layer(tmp_path)

    def run(*command: str, **environment: str) -> str:
        enter = ["unshare", "-m", "sh", "-ec", ENTER, "sh", str(tmp_path), *command]
        # Not this program's stderr: an ssh of another test may have left it non-blocking, which Ansible refuses.
        done = subprocess.run(enter, capture_output=True, text=True, check=False, env={**os.environ, **environment})
        assert done.returncode == 0, done.stderr
        return done.stdout

    run("useradd", "--system", USER)
    return run


@pytest.fixture
def subid(etc: Callable[..., str]) -> Callable[..., dict]:
    def run(
        module: str = "subid", check: bool = False, environment: dict[str, str] | None = None, **options: object
    ) -> dict:
        ansible = str(Path(sys.executable).with_name("ansible"))
        command = [
            ansible,
            "localhost",
            "-i",
            "localhost,",
            "-c",
            "local",
            "-e",
            f"ansible_python_interpreter={sys.executable}",
            "--diff",
        ]
        command += ["-m", f"granary.vmstore.{module}", "-a", json.dumps(options), *(["--check"] if check else [])]
        output = etc(
            "sh",
            "-c",
            '"$@" || true',
            "sh",
            *command,
            ANSIBLE_LOAD_CALLBACK_PLUGINS="1",
            ANSIBLE_STDOUT_CALLBACK="ansible.builtin.minimal",
            **(environment or {}),
        )
        return json.loads(output[output.index("=> {") + 3 :])

    return run


def lines(etc: Callable[..., str], name: str) -> list[str]:
    return [line for line in etc("cat", f"/etc/{name}").splitlines() if line.startswith(f"{USER}:")]


def test_check_run_again_check_again(etc: Callable[..., str], subid: Callable[..., dict]) -> None:
    before = etc("cat", "/etc/subuid")
    assert subid(user=USER, check=True)["changed"]
    assert etc("cat", "/etc/subuid") == before
    assert subid(user=USER)["changed"]
    assert lines(etc, "subuid") == lines(etc, "subgid") == [f"{USER}:100000:65536"]
    assert etc("cat", "/etc/subuid").startswith(before)
    assert not subid(user=USER)["changed"]
    assert not subid(user=USER, check=True)["changed"]


def test_useradd_and_getsubids_understand_what_was_written(etc: Callable[..., str], subid: Callable[..., dict]) -> None:
    subid(user=USER, start=100000, count=100000)
    assert etc("getsubids", USER).split() == ["0:", USER, "100000", "100000"]
    etc("useradd", f"{USER}-2")  # the module takes the next free range
    start = int(etc("getsubids", f"{USER}-2").split()[2])
    assert start >= 200000
    refused = subid(user=USER, start=start, replace=True)
    require_failure(refused, Conflict, names=[f"'{USER}-2'", "/etc/subuid"])
    assert lines(etc, "subuid")[0] == f"{USER}:100000:100000"


def test_replace_absent_and_info(etc: Callable[..., str], subid: Callable[..., dict]) -> None:
    etc("usermod", "--add-subuids", "300000-300009", USER)
    kept = subid(user=USER, type="uid")
    assert (kept["changed"], kept["subuid"]) == (False, [{"user": USER, "start": 300000, "count": 10}])
    replaced = subid(user=USER, type="uid", replace=True)
    assert replaced["changed"]
    assert replaced["actions"][0]["name"] == "replace subordinate uid range"
    assert lines(etc, "subuid") == [f"{USER}:100000:65536"]
    assert subid("subid_info", user=USER)["subuid"] == [{"user": USER, "start": 100000, "count": 65536}]
    assert subid(user=USER, state="absent")["changed"]
    assert lines(etc, "subuid") == []
    assert not subid(user=USER, state="absent")["changed"]


def test_ranges_from_nss_are_respected(etc: Callable[..., str], subid: Callable[..., dict], tmp_path: Path) -> None:
    (tmp_path / "plugin.c").write_text(PLUGIN)
    subprocess.run(
        ["gcc", "-shared", "-fPIC", "-o", str(tmp_path / "libsubid_granary.so"), str(tmp_path / "plugin.c")], check=True
    )
    etc("sh", "-c", "echo 'subid: granary' >> /etc/nsswitch.conf")
    libraries = {"LD_LIBRARY_PATH": str(tmp_path)}
    found = subid(user=USER, environment=libraries)
    assert (found["changed"], found["subuid"]) == (False, [{"user": USER, "start": 700000, "count": 100}])
    assert subid("subid_info", user=USER, environment=libraries)["source"] == "granary"
    require_failure(subid(user=USER, replace=True, environment=libraries), UnsupportedAction, names=["'granary'"])


def test_a_full_etc_is_one_sentence_and_nothing_changes(
    etc: Callable[..., str], subid: Callable[..., dict], tmp_path: Path
) -> None:
    layer = str(tmp_path / "layer")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", layer], check=True)
    try:
        make_layer(tmp_path)
        before = etc("cat", "/etc/subuid")
        etc("sh", "-c", "head -c 1M /dev/zero > /etc/filler 2> /dev/null || true")
        require_failure(subid(user="daemon"), NoSpace, names=["/etc/subuid", os.strerror(errno.ENOSPC)])
        assert etc("cat", "/etc/subuid") == before
        assert [
            name for name in etc("ls", "-A", "/etc").split() if "subuid" in name and name not in ("subuid", "subuid-")
        ] == []
    finally:
        subprocess.run(["umount", "-R", layer], check=True)

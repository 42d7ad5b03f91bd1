# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import (
    CommandMissing,
    Conflict,
    FileAccessFailed,
    InvalidInput,
    UnsupportedAction,
)
from ansible_collections.granary.vmstore.plugins.module_utils._core.plan import Plan
from ansible_collections.granary.vmstore.plugins.module_utils._service.ids.subid import (
    SubidService,
    SubidSpec,
    read_subids,
)
from refusal import refused


@pytest.fixture
def etc(tmp_path: Path) -> Path:
    (tmp_path / "subuid").write_text("# ranges\nbob:300000:65536\n")
    (tmp_path / "subgid").write_text("")
    return tmp_path


def make_plan(etc: Path, **options: object) -> Plan:
    return SubidService(SubidSpec(**{"user": "alice", **options}), str(etc)).plan()


def converge(etc: Path, **options: object) -> Plan:
    service = SubidService(SubidSpec(**{"user": "alice", **options}), str(etc))
    with service.exclusive():
        plan = service.plan()
        plan.run()
    return plan


def test_the_default_is_the_specs_range_in_both_files(etc: Path) -> None:
    plan = converge(etc)
    assert (etc / "subuid").read_text() == "# ranges\nbob:300000:65536\nalice:100000:65536\n"
    assert (etc / "subgid").read_text() == "alice:100000:65536\n"
    assert plan.result == {name: [{"user": "alice", "start": 100000, "count": 65536}] for name in ("subuid", "subgid")}
    assert not make_plan(etc).changed


def test_the_next_free_range_is_taken_as_useradd_does(etc: Path) -> None:
    (etc / "subuid").write_text("bob:100000:65536\n")
    (etc / "subgid").write_text("bob:200000:65536\nalice:5:0\n")
    plan = converge(etc)
    assert plan.result == {name: [{"user": "alice", "start": 265536, "count": 65536}] for name in ("subuid", "subgid")}
    assert not make_plan(etc).changed
    assert not make_plan(etc, replace=True).changed


def test_login_defs_says_where(etc: Path) -> None:
    (etc / "login.defs").write_text(
        "# SUB_UID_MIN 7\nSUB_UID_MIN\t\t  500000\nSUB_GID_MIN 400000\nSUB_UID_MAX 700000\n"
    )
    assert make_plan(etc).result["subgid"] == [{"user": "alice", "start": 500000, "count": 65536}]
    with refused(
        Conflict,
        says="No 200002 ids in a row are free from 500000 to 700000 (login.defs), so give a start for 'alice'.",
    ):
        make_plan(etc, count=200002)


def test_the_second_file_gets_the_range_of_the_first(etc: Path) -> None:
    (etc / "subuid").write_text("alice:400000:65536\n")
    assert make_plan(etc, start=400000).result["subgid"] == [{"user": "alice", "start": 400000, "count": 65536}]


def test_accounts_are_avoided_and_warned_of(etc: Path) -> None:
    done = subprocess.run(
        ["unshare", "-m", "sh", "-ec", """
            printf 'somebody:x:120000:120000::/:/bin/sh\n' | cat /etc/passwd - > "$1/passwd"
            mount --bind "$1/passwd" /etc/passwd
            "$2" -c "$3" "$1"
        """, "sh", str(etc), sys.executable, NEXT_TO_AN_ACCOUNT],
        check=True, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    start, warning = done.stdout.splitlines()
    assert start == "120001"
    assert warning.startswith(
        "the account 'somebody' (uid 120000) is in the uid range of 'root': guests whose ids are mapped there act as "
        "it."
    )


NEXT_TO_AN_ACCOUNT = """
import sys
from ansible_collections.granary.vmstore.plugins.module_utils._service.ids.subid import SubidService, SubidSpec
print(SubidService(SubidSpec("root"), sys.argv[1]).plan().result["subuid"][0]["start"])
print(*SubidService(SubidSpec("root", 100000), sys.argv[1]).plan().warnings)
"""


def test_a_user_without_an_account_is_told_once(etc: Path) -> None:
    assert [warning.split(";")[0] for warning in make_plan(etc).warnings] == [
        "There is no account 'alice' on this host"
    ]
    assert make_plan(etc, user="daemon").warnings == []
    assert make_plan(etc, state="absent").warnings == []


def test_planning_leaves_no_trace(etc: Path) -> None:
    assert make_plan(etc).changed
    assert sorted(os.listdir(etc)) == ["subgid", "subuid"]
    assert (etc / "subgid").read_text() == ""


def test_an_existing_entry_is_respected_and_reported(etc: Path) -> None:
    plan = make_plan(etc, user="bob", start=500000, type="uid")
    assert not plan.changed
    assert plan.result == {"subuid": [{"user": "bob", "start": 300000, "count": 65536}]}
    warning = f"bob:500000:65536 in {etc}/subuid gives it both."
    assert [
        one
        for one in plan.warnings
        if "has the uid range 300000:65536, which is kept, and not 500000:65536" in one and one.endswith(warning)
    ]
    for wish in ({}, {"start": 300000}, {"start": 300100, "count": 100}):
        assert not [one for one in make_plan(etc, user="bob", type="uid", **wish).warnings if "kept" in one]


def test_replace_puts_the_new_range_in_the_old_ones_place(etc: Path) -> None:
    converge(etc)
    plan = converge(etc, user="bob", start=500000, count=5, type="uid", replace=True)
    assert (etc / "subuid").read_text() == "# ranges\nbob:500000:5\nalice:100000:65536\n"
    assert [(action.before, action.after) for action in plan.actions] == [("bob:300000:65536\n", "bob:500000:5\n")]
    assert not make_plan(etc, user="bob", start=500000, count=5, type="uid", replace=True).changed


def test_an_overlap_names_the_other_user_and_nothing_is_written(etc: Path) -> None:
    (etc / "subgid").write_text("bob:100000:1\n")
    with refused(
        Conflict,
        says=f"The gid range 100000:65536 of 'alice' overlaps 100000:1 of 'bob' in {etc}/subgid. "
        "Without a start, the first free range is taken.",
    ):
        converge(etc, start=100000)
    assert (etc / "subuid").read_text() == "# ranges\nbob:300000:65536\n"


def test_absent_removes_the_users_entries_only(etc: Path) -> None:
    converge(etc)
    converge(etc, state="absent")
    assert (etc / "subuid").read_text() == "# ranges\nbob:300000:65536\n"
    assert not make_plan(etc, state="absent").changed


def test_when_the_second_file_cannot_be_written_the_first_is_put_back(etc: Path) -> None:
    (etc / "subgid").unlink()
    service = SubidService(SubidSpec("alice"), str(etc))
    with service.exclusive():
        plan = service.plan()
        (etc / "subgid").mkdir()
        with refused(FileAccessFailed, names=[etc / "subgid"]):
            plan.run()
    assert (etc / "subuid").read_text() == "# ranges\nbob:300000:65536\n"


def test_ids_from_nss_are_read_and_never_written(etc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system's own getsubids(1) reads the system's nsswitch.conf, where no user has such a range."""
    (etc / "nsswitch.conf").write_text("subid: sss\n")
    with refused(
        UnsupportedAction,
        says="Subordinate ids of this host come from the NSS source 'sss' (nsswitch.conf); they can't "
        f"be written to {etc}/subuid.",
    ):
        make_plan(etc, user="nosuchuser")
    assert read_subids("nosuchuser", str(etc)) == {"source": "sss", "subuid": [], "subgid": []}
    monkeypatch.setenv("PATH", "/nowhere")
    with refused(CommandMissing, names=["'getsubids'"]):
        make_plan(etc)


@pytest.mark.parametrize(
    ("option", "value", "accepted"),
    [
        *(
            ("user", name, "a login name or a decimal uid without blanks, ':' and '#' is expected")
            for name in ("a:b", "a\nb", "", "#a")
        ),
        ("start", 0, "with count 65536 a start from 1 to 4294901759 is expected"),
        ("start", 2**32 - 65536, "with count 65536 a start from 1 to 4294901759 is expected"),
        ("count", 0, "a number of ids of at least 1 is expected"),
    ],
)
def test_bad_values_are_refused(option: str, value: object, accepted: str) -> None:
    with refused(InvalidInput, says=f"{option}: {value!r} is not accepted: {accepted}."):
        SubidSpec(**{"user": "alice", option: value})


def test_info_lists_everything_or_one_users_ranges(etc: Path) -> None:
    assert read_subids(None, str(etc)) == {
        "source": "files",
        "subuid": [{"user": "bob", "start": 300000, "count": 65536}],
        "subgid": [],
    }
    assert read_subids("alice", str(etc))["subuid"] == []


def test_the_shadow_suites_locks_are_held(etc: Path) -> None:
    with SubidService(SubidSpec("alice"), str(etc)).exclusive():
        assert [(etc / f"{name}.lock").read_bytes() for name in ("subuid", "subgid")] == [b"%d\0" % os.getpid()] * 2
    assert sorted(path.name for path in etc.iterdir()) == [".pwd.lock", "subgid", "subuid"]

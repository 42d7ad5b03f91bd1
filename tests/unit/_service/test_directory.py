# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""Directories that root creates and gives away, below directories of a user who may change them at any moment."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import (
    Conflict,
    InvalidInput,
    NotFound,
    PathNotAllowed,
    VmstoreError,
)
from ansible_collections.granary.vmstore.plugins.module_utils._service.directory import DIRECTORY_SPEC, DirectoryService
from refusal import refused

OTHER = 61002


def make(path: Path, **options: object) -> list[str]:
    """Plan in check mode, converge, plan again without changes, and return the names of the actions."""
    given = {
        **{name: option.get("default") for name, option in DIRECTORY_SPEC.argument_spec.items()},
        "path": str(path),
        **options,
    }
    DirectoryService(given).plan()
    done = DirectoryService(given).converge()
    assert not DirectoryService(given).plan().changed
    return [action.name for action in done.actions]


def facts(path: Path) -> str:
    """Return the output of stat(1), with numeric ids."""
    return subprocess.run(
        ["stat", "--format=%F %u:%g %a", path], capture_output=True, text=True, check=True
    ).stdout.strip()


def make_owned(path: Path, owner: int, mode: int = 0o755) -> Path:
    path.mkdir()
    os.chown(path, owner, owner)
    path.chmod(mode)
    return path


def link(path: Path, target: Path, owner: int) -> Path:
    path.symlink_to(target)
    os.chown(path, owner, owner, follow_symlinks=False)
    return path


def test_a_directory_is_made_and_given_away(tmp_path: Path) -> None:
    assert make(tmp_path / "a" / "b" / "c", owner=str(OTHER), group="daemon", mode="0750") == ["create directory"]
    assert facts(tmp_path / "a" / "b" / "c") == f"directory {OTHER}:1 750"
    assert facts(tmp_path / "a") == facts(tmp_path / "a" / "b") == "directory 0:0 755"
    assert make(tmp_path / "a" / "b" / "c", owner=str(OTHER), group="daemon", mode="0750") == []


@pytest.mark.parametrize(
    ("options", "expected"),
    [({}, "0:0 755"), ({"owner": "daemon"}, "1:0 755"), ({"group": "1"}, "0:1 755"), ({"mode": "02770"}, "0:0 2770")],
)
def test_what_is_there_is_changed_where_nobody_else_could_have_put_it(
    tmp_path: Path, options: dict[str, str], expected: str
) -> None:
    make_owned(tmp_path / "a", 0, 0o700)
    assert make(tmp_path / "a", **options) == ["change directory"]
    assert facts(tmp_path / "a") == f"directory {expected}"


def test_the_umask_changes_no_mode(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        make(tmp_path / "a" / "b", mode="02775")
        assert os.umask(0o077) == 0o077
    finally:
        os.umask(before)
    assert [facts(tmp_path / "a"), facts(tmp_path / "a" / "b")] == ["directory 0:0 755", "directory 0:0 2775"]


def test_the_plan_tells_before_and_after(tmp_path: Path) -> None:
    make_owned(tmp_path / "a", 0, 0o700)
    plan = DirectoryService({"path": str(tmp_path / "a"), "owner": "daemon", "group": None, "mode": "0755"}).plan()
    assert [(action.before, action.after) for action in plan.actions] == [
        ({"owner": "root", "group": "root", "mode": "0700"}, {"owner": "daemon", "group": "root", "mode": "0755"})
    ]
    assert plan.result["directory"] == {"path": str(tmp_path / "a"), "owner": "daemon", "group": "root", "mode": "0755"}


def test_what_lies_in_a_users_directory_is_that_users(tenant: Path) -> None:
    owner = tenant.stat().st_uid
    make(tenant / "a" / "b")
    assert facts(tenant / "a") == facts(tenant / "a" / "b") == f"directory {owner}:65534 755"
    make(tenant / "c", owner=str(owner), group=str(owner), mode="0750")
    assert facts(tenant / "c") == f"directory {owner}:{owner} 750"
    link(tenant / "link", tenant / "a", owner)
    make(tenant / "link" / "d", mode="0700")
    assert facts(tenant / "a" / "d") == f"directory {owner}:65534 700"


def test_no_link_of_another_user_gives_a_directory_of_root_away(tmp_path: Path, tenant: Path) -> None:
    owner = tenant.stat().st_uid
    make_owned(tmp_path / "victim", 0, 0o700)
    link(tenant / "datastores", tmp_path / "victim", owner)
    link(tenant / "around", tmp_path, owner)
    for path in ("datastores", "around/victim", "around/new"):
        with refused(PathNotAllowed, option="path", names=[tenant / Path(path).parts[0]]):
            make(tenant / path, owner=str(owner))
    assert facts(tmp_path / "victim") == "directory 0:0 700"
    assert os.listdir(tmp_path) == ["victim"]


@pytest.mark.parametrize("place", ["", "around"])
def test_no_directory_of_root_that_another_user_moved_there_is_given_away(tenant: Path, place: str) -> None:
    """A rename needs write permission on the parent directories only, not on the directory itself."""
    owner = tenant.stat().st_uid
    around = make_owned(tenant / "around", 0) if place else tenant
    path = make_owned(around / "datastores", 0, 0o700)
    with refused(
        Conflict,
        says=f"The directory {path} belongs to root:root with mode 0700, and the user {owner} could have put it there, "
        f"so it is not changed to {owner}: with mode 0755: look at it, and do that by hand or remove it.",
    ):
        make(path, owner=str(owner))
    assert facts(path) == "directory 0:0 700"
    assert make(path, mode="0700") == []


def test_a_directory_of_root_in_which_all_rename_decides_nothing(tmp_path: Path) -> None:
    make_owned(tmp_path / "shared", 0, 0o777)
    make_owned(tmp_path / "shared" / "a", 0, 0o700)
    with refused(
        Conflict,
        says=f"The directory {tmp_path}/shared/a belongs to root:root with mode 0700, and any user "
        "could have put it there, so it is not changed to "
        f"{OTHER}: with mode 0755: look at it, and do that by hand or remove it.",
    ):
        make(tmp_path / "shared" / "a", owner=str(OTHER))
    (tmp_path / "shared").chmod(0o1777)
    assert make(tmp_path / "shared" / "a", owner=str(OTHER)) == ["change directory"]
    with refused(Conflict, names=[tmp_path / "shared" / "a" / "b", OTHER]):
        make(make_owned(tmp_path / "shared" / "a" / "b", 0), owner=str(OTHER))


@pytest.mark.parametrize(("gid", "is_refused"), [(0, False), (50, False), (1, True)])
def test_groups_that_rename_in_a_directory_of_root(tmp_path: Path, gid: int, is_refused: bool) -> None:
    """Some groups are as trusted as root: Debian gives /usr/local to the group staff."""
    make_owned(tmp_path / "local", 0)
    os.chown(tmp_path / "local", 0, gid)
    (tmp_path / "local").chmod(0o2775)
    make_owned(tmp_path / "local" / "a", 0, 0o700)
    with pytest.raises(Conflict) if is_refused else contextlib.nullcontext():
        make(tmp_path / "local" / "a", mode="0755")


def test_who_changes_names_all_the_time_gets_nothing_of_root(
    tmp_path: Path, tenant: Path, swapping: Callable[[Path, Path], contextlib.AbstractContextManager[None]]
) -> None:
    owner = tenant.stat().st_uid
    victims = [make_owned(tmp_path / "victim", 0, 0o700), make_owned(tenant / "victim", 0, 0o700)]
    name = make_owned(tenant / "datastores", owner)
    for number, other in enumerate((link(tenant / "link", victims[0], owner), victims[1])):
        inodes = {victim.stat().st_ino for victim in victims}
        with swapping(name, other):
            for mode in [0o750, 0o755] * 100:
                with contextlib.suppress(VmstoreError):
                    service = DirectoryService(
                        {"path": str(name), "owner": str(owner), "group": None, "mode": f"{mode:04o}"}
                    )
                    service.converge()
        found = [path for place in (tmp_path, tenant) for path in place.iterdir() if path.lstat().st_ino in inodes]
        assert [facts(path) for path in found] == ["directory 0:0 700"] * 2, number
        if not name.is_dir() or name.is_symlink():
            other.rename(tenant / "x")
            name.rename(other)
            (tenant / "x").rename(name)


def test_what_is_no_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in ("file", "file/a"):
        with refused(
            InvalidInput,
            says=f"path: '{tmp_path}/{path}' is not accepted: the path of a directory, or of nothing, is expected.",
        ):
            make(tmp_path / path)
    with refused(InvalidInput, says="mode: '755' is not accepted: a quoted octal number such as '0755' is expected."):
        make(tmp_path / "a", mode="755")
    with refused(InvalidInput, option="path", value="a"):
        make(Path("a"))


def test_an_account_may_be_missing_in_check_mode_only(tmp_path: Path) -> None:
    """The role that creates the account does so in the same run."""
    for option in ("owner", "group"):
        with refused(NotFound, says=f"{option}: this host has no * 'nosuch'."):
            make(tmp_path / "a", **{option: "nosuch"})
    assert os.listdir(tmp_path) == []

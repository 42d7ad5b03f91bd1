# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core.command import Completed
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import CommandFailed, InvalidInput, PathNotAllowed, StaleState
from ansible_collections.granary.vmstore.plugins.module_utils._host.directory import MOST_COUNTED, Directory, look, look_at_many, read_answer, read_size

MIB = 2**20


def fill(path: Path, mib: int) -> Path:
    path.write_bytes(os.urandom(mib * MIB))
    return path


def test_the_size_is_what_du_says_rounded_up(tmp_path: Path) -> None:
    fill(tmp_path / "data", 3)
    used = int(subprocess.run(["du", "-s", "--block-size=1", tmp_path], capture_output=True, text=True, check=True).stdout.split()[0])
    assert used > 3 * MIB
    assert look(str(tmp_path)) == Directory(str(tmp_path), 4)


def test_another_users_link_to_what_is_not_that_users(tmp_path: Path, tenant: Path) -> None:
    owner = tenant.stat().st_uid
    (tenant / "mine").mkdir()
    os.chown(tenant / "mine", owner, owner)
    for name, target in (("away", tmp_path), ("own", tenant / "mine")):
        (tenant / name).symlink_to(target)
        os.chown(tenant / name, owner, owner, follow_symlinks=False)
    with pytest.raises(PathNotAllowed, match=f"^path: '{tenant}/away.* leads through a symbolic link"):
        look(str(tenant / "away"))
    assert look(str(tenant / "own")).path == str(tenant / "mine")


def test_links_are_not_followed_and_hard_links_count_once(tmp_path: Path) -> None:
    outside, shared = tmp_path / "outside", tmp_path / "shared"
    outside.mkdir()
    shared.mkdir()
    fill(outside / "big", 20)
    os.symlink(outside, shared / "link")
    os.symlink(outside / "big", shared / "file-link")
    os.link(fill(shared / "one", 2), shared / "two")
    assert look(str(shared)).size_mb == 3


def test_holes_take_no_space(tmp_path: Path) -> None:
    with open(tmp_path / "sparse", "wb") as file:
        file.truncate(1 << 40)
    assert look(str(tmp_path)).size_mb == 1


@pytest.mark.parametrize("name", ["a b", "$(touch injected)", "`id`", "it's", '"', "-s", "ü", "*", "$HOME", "a;b", "\\"])
def test_any_name_is_only_a_name(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    assert look(str(tmp_path / name)) == Directory(str(tmp_path / name), 1)
    assert os.listdir(tmp_path) == [name]


def test_the_path_is_resolved_before_it_is_checked(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    os.symlink("real", tmp_path / "link")
    checked: list[str] = []
    assert look(f"{tmp_path}/link/", check=checked.append).path == f"{tmp_path}/real"
    assert checked == [f"{tmp_path}/real"]


def test_a_directory_that_becomes_a_link_after_the_check_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "secret").mkdir()

    def swap(real: str) -> None:
        os.rename(real, tmp_path / "aside")
        os.symlink(tmp_path / "secret", real)

    with pytest.raises(StaleState, match=f"^The path {tmp_path}/data came to lead to another directory"):
        look(str(tmp_path / "data"), check=swap)


@pytest.mark.parametrize(
    ("name", "why"), [("none", "No such file or directory"), ("file", "regular empty file"), ("loop", "Too many levels of symbolic links")]
)
def test_what_is_no_directory_is_refused(tmp_path: Path, name: str, why: str) -> None:
    (tmp_path / "file").touch()
    os.symlink("loop", tmp_path / "loop")
    with pytest.raises(InvalidInput) as caught:
        look(str(tmp_path / name))
    expected = "a directory on the front-end or on a host of the datastore's bridge_list is expected"
    assert str(caught.value) == f"path: '{tmp_path / name}' is not accepted: {expected} (the front-end: {why})."


def test_many_at_once_are_measured_as_one_by_one(tmp_path: Path) -> None:
    (tmp_path / "real" / "below" / "further").mkdir(parents=True)
    fill(tmp_path / "real" / "below" / "data", 3)
    os.link(fill(tmp_path / "real" / "one", 2), tmp_path / "real" / "below" / "further" / "two")
    os.symlink("real", tmp_path / "link")
    with open(tmp_path / "real" / "sparse", "wb") as file:
        file.truncate(1 << 40)
    (tmp_path / "empty").mkdir()
    paths = [str(tmp_path / name) for name in ("real", "link", "empty")]
    assert look_at_many(paths) == {path: look(path) for path in paths}


def test_many_at_once_lack_what_one_has_to_be_looked_at_for(tmp_path: Path) -> None:
    for name in ("large", "refused", "well"):
        (tmp_path / name).mkdir()
    for number in range(MOST_COUNTED + 1):
        (tmp_path / "large" / str(number)).touch()
    (tmp_path / "file").touch()

    def check(path: str) -> None:
        if path.endswith("refused"):
            raise PathNotAllowed("path", path, "no")

    paths = [*(str(tmp_path / name) for name in ("none", "file", "large", "refused", "well")), "relative", "/a/../etc", "/a\nb"]
    assert list(look_at_many(paths, check=check)) == [str(tmp_path / "well")]


@pytest.mark.parametrize("path", ["relative", "/a/../etc", "/a\nb", ""])
def test_a_path_is_absolute_and_plain(path: str) -> None:
    with pytest.raises(InvalidInput):
        look(path)


def test_measuring_has_a_deadline(tmp_path: Path) -> None:
    for number in range(2000):
        (tmp_path / str(number)).touch()
    with pytest.raises(CommandFailed, match="did not end within 0.0001 seconds"):
        look(str(tmp_path), timeout=0.0001)


@pytest.mark.parametrize(
    ("completed", "size"),
    [
        (Completed(0, "0\t.\n", ""), 0),
        (Completed(0, "1\t.\n", ""), 1),
        (Completed(0, f"{MIB}\t/x y\n", ""), 1),
        (Completed(0, f"{MIB + 1}\t.\n", ""), 2),
        (Completed(1, "4096\t.\n", "du: cannot access './x': No such file or directory\n"), 1),
    ],
)
def test_answers_of_du(completed: Completed, size: int) -> None:
    assert read_size("du", completed) == size


@pytest.mark.parametrize(
    "completed",
    [
        Completed(1, "4096\t.\n", "du: cannot read directory './x': Permission denied\n"),
        Completed(1, "", "du: cannot access './x': No such file or directory\n"),
        Completed(0, "", ""),
        Completed(0, "-5\t.\n", ""),
        Completed(0, "5\t.\nmore\n", ""),
        Completed(127, "", "sh: 1: du: not found\n"),
    ],
)
def test_what_du_could_not_measure_is_an_error(completed: Completed) -> None:
    with pytest.raises(CommandFailed, match="The command 'du on h1' failed with exit code"):
        read_size("du on h1", completed)


def test_an_answer_of_another_host() -> None:
    assert read_answer("h1", Completed(0, "/mnt/data\n4096\t.\n", ""), 9) == Directory("/mnt/data", 1, "h1")


@pytest.mark.parametrize("stdout", ["", "/mnt/data", "Welcome!\n/mnt/data\n4096\t.\n", "/mnt/da\nta\n4096\t.\n"])
def test_another_host_that_says_more_or_less_is_not_believed(stdout: str) -> None:
    with pytest.raises(CommandFailed):
        read_answer("h1", Completed(0, stdout, ""), 9)


def test_another_host_that_was_too_slow() -> None:
    with pytest.raises(CommandFailed, match="^The command 'du' on h1 did not end within 9 seconds"):
        read_answer("h1", Completed(124, "/mnt/data\n", ""), 9)

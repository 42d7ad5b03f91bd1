# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import (
    CommandFailed,
    InvalidInput,
    PathNotAllowed,
    StaleState,
    TimedOut,
)
from ansible_collections.granary.vmstore.plugins.module_utils._host.directory import (
    MOST_COUNTED,
    Directory,
    DuOutput,
    Measuring,
    look,
    look_at_many,
)
from refusal import refused

MIB = 2**20


def fill(path: Path, mib: int) -> Path:
    path.write_bytes(os.urandom(mib * MIB))
    return path


def size(path: Path) -> int | None:
    return look(str(path), measuring=Measuring()).size_mb


def test_the_size_is_what_du_says_rounded_up(tmp_path: Path) -> None:
    fill(tmp_path / "data", 3)
    used = int(
        subprocess.run(
            ["du", "-s", "--block-size=1", tmp_path], capture_output=True, text=True, check=True
        ).stdout.split()[0]
    )
    assert used > 3 * MIB
    assert look(str(tmp_path)) == Directory(str(tmp_path))
    assert size(tmp_path) == 4


def test_another_users_link_to_what_is_not_that_users(tmp_path: Path, tenant: Path) -> None:
    owner = tenant.stat().st_uid
    (tenant / "mine").mkdir()
    os.chown(tenant / "mine", owner, owner)
    for name, target in (("away", tmp_path), ("own", tenant / "mine")):
        (tenant / name).symlink_to(target)
        os.chown(tenant / name, owner, owner, follow_symlinks=False)
    with refused(PathNotAllowed, option="path", value=f"{tenant}/away"):
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
    assert size(shared) == 3


def test_holes_take_no_space(tmp_path: Path) -> None:
    with open(tmp_path / "sparse", "wb") as file:
        file.truncate(1 << 40)
    assert size(tmp_path) == 1


@pytest.mark.parametrize(
    "name", ["a b", "$(touch injected)", "`id`", "it's", '"', "-s", "ü", "*", "$HOME", "a;b", "\\"]
)
def test_any_name_is_only_a_name(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    assert look(str(tmp_path / name)) == Directory(str(tmp_path / name))
    assert size(tmp_path / name) == 1
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

    with refused(
        StaleState,
        says=f"The path {tmp_path}/data came to lead to another directory while it was looked at; nothing was changed.",
    ):
        look(str(tmp_path / "data"), check=swap)


@pytest.fixture
def ordinary_user(tenant: Path) -> Iterator[Path]:
    """Create a directory of an ordinary user, and run the test with the user's effective id."""
    (shared := tenant / "shared").mkdir()
    for name in ("a", "b", "c", "d"):
        (shared / name).mkdir(mode=0o700)
        fill(shared / name / "private", 2)
    fill(shared / "public", 3)
    owner = tenant.stat().st_uid
    os.seteuid(owner)
    try:
        yield shared
    finally:
        os.seteuid(0)


def test_what_can_not_be_read_does_not_count_and_is_logged(ordinary_user: Path) -> None:
    said: list[str] = []
    assert look(str(ordinary_user), measuring=Measuring(log=said.append)).size_mb == 4
    (line,) = said
    assert line.startswith(
        f"the size of {ordinary_user} is without 4 of its files and directories that could not be read: "
    )
    assert f"'{ordinary_user}/a' (Permission denied)" in line and line.endswith(", ...")
    assert "/proc/" not in line


def test_a_directory_that_can_not_be_read_at_all_can_be_found(ordinary_user: Path) -> None:
    said: list[str] = []
    assert look(str(ordinary_user / "a"), measuring=Measuring(log=said.append)).size_mb == 1
    assert len(said) == 1 and "/proc/" not in said[0]


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("none", "No such file or directory"),
        ("file", "regular empty file"),
        ("loop", "Too many levels of symbolic links"),
    ],
)
def test_what_is_no_directory_is_refused(tmp_path: Path, name: str, why: str) -> None:
    (tmp_path / "file").touch()
    os.symlink("loop", tmp_path / "loop")
    with refused(
        InvalidInput,
        says=f"path: '{tmp_path / name}' is not accepted: a directory on the front-end or on a host of the datastore's "
        f"bridge_list is expected (the front-end: {why}).",
    ):
        look(str(tmp_path / name))


def test_many_at_once_are_measured_as_one_by_one(tmp_path: Path) -> None:
    (tmp_path / "real" / "below" / "further").mkdir(parents=True)
    fill(tmp_path / "real" / "below" / "data", 3)
    os.link(fill(tmp_path / "real" / "one", 2), tmp_path / "real" / "below" / "further" / "two")
    os.symlink("real", tmp_path / "link")
    with open(tmp_path / "real" / "sparse", "wb") as file:
        file.truncate(1 << 40)
    (tmp_path / "empty").mkdir()
    paths = [str(tmp_path / name) for name in ("real", "link", "empty")]
    assert look_at_many(paths) == {path: look(path, measuring=Measuring()) for path in paths}


def test_many_at_once_lack_what_one_has_to_be_looked_at_for(tmp_path: Path) -> None:
    for name in ("large", "refused", "well"):
        (tmp_path / name).mkdir()
    for number in range(MOST_COUNTED + 1):
        (tmp_path / "large" / str(number)).touch()
    (tmp_path / "file").touch()

    def check(path: str) -> None:
        if path.endswith("refused"):
            raise PathNotAllowed("path", path, "no")

    paths = [
        *(str(tmp_path / name) for name in ("none", "file", "large", "refused", "well")),
        "relative",
        "/a/../etc",
        "/a\nb",
    ]
    assert list(look_at_many(paths, check=check)) == [str(tmp_path / "well")]


@pytest.mark.parametrize("path", ["relative", "/a/../etc", "/a\nb", ""])
def test_a_path_is_absolute_and_plain(path: str) -> None:
    with pytest.raises(InvalidInput):
        look(path)


def test_measuring_has_a_deadline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a fast machine, the real program ends before any deadline."""
    (tmp_path / "du").write_text("#!/bin/sh\nexec sleep 1000\n")
    (tmp_path / "du").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with refused(TimedOut, names=["'du'", "0.2"]):
        look(str(tmp_path), measuring=Measuring(0.2))


def size_of(returncode: int, *lines: str, log: Callable[[str], object] = str) -> int:
    output = DuOutput()
    for line in lines:
        output.take(line)
    return output.size_mb("du on h1", "/data", returncode, log)


@pytest.mark.parametrize(
    ("returncode", "lines", "size", "unread"),
    [
        (0, ["0\t."], 0, ""),
        (0, ["1\t."], 1, ""),
        (0, [f"{MIB}\t/x y"], 1, ""),
        (0, [f"{MIB + 1}\t."], 2, ""),
        (1, ["du: cannot access './x': No such file or directory", "4096\t."], 1, ""),
        (
            1,
            ["du: cannot read directory './x': Permission denied", "4096\t."],
            1,
            r"1 of its .*: './x' \(Permission denied\)$",
        ),
        (
            1,
            [*["du: cannot access './a: b': Stale file handle"] * 5, "4096\t."],
            1,
            r"5 of its .*: './a: b' \(Stale file handle\), .*, \.\.\.$",
        ),
        (
            1,
            ["du: cannot access 'x': Input/output error", "du: cannot access 'y': No such file or directory", "1\t."],
            1,
            r"1 of its .*'x' \(",
        ),
    ],
)
def test_answers_of_du(returncode: int, lines: list[str], size: int, unread: str) -> None:
    said: list[str] = []
    assert size_of(returncode, *lines, log=said.append) == size
    assert re.search(unread, said[0]) if unread else said == []


@pytest.mark.parametrize(
    ("returncode", "lines"),
    [
        (1, ["du: cannot access './x': No such file or directory"]),
        (1, ["du: cannot read directory './x': Permission denied", "du: memory exhausted", "4096\t."]),
        (0, []),
        (0, ["-5\t."]),
        (0, ["5\t.", "more"]),
        (0, ["5\t.", "6\t."]),
        (127, ["sh: 1: du: not found"]),
        (-9, ["5\t."]),
    ],
)
def test_what_du_could_not_measure_is_an_error(returncode: int, lines: list[str]) -> None:
    with refused(
        CommandFailed,
        says="The size of the directory /data could not be read: the command 'du on h1' ended with exit code *",
    ):
        size_of(returncode, *lines)


# Bridges: tests/integration/test_bridge_list.py has connections to a real one.

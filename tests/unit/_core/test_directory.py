# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""Paths that other users may change, and the directories at their ends."""

from __future__ import annotations

import errno
import os
import subprocess
from pathlib import Path

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core.directory import (
    open_file_at,
    opened_directory,
    opened_parent,
)
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import PathNotAllowed
from refusal import refused

USER = 61001
OTHER = 61002


@pytest.fixture
def theirs(tmp_path) -> Path:
    """Return a directory of another user below directories of root."""
    found = tmp_path / "theirs"
    found.mkdir()
    os.chown(found, USER, USER)
    return found


def link(path: Path, target: str, owner: int) -> Path:
    path.symlink_to(target)
    os.chown(path, owner, owner, follow_symlinks=False)
    return path


def make_owned(path: Path, owner: int) -> Path:
    path.mkdir()
    os.chown(path, owner, owner)
    return path


def inode(path: Path) -> str:
    return subprocess.run(
        ["stat", "-L", "-c", "%d:%i", path], stdout=subprocess.PIPE, text=True, check=True
    ).stdout.strip()


def opened(path: Path) -> str:
    with opened_directory(str(path)) as descriptor:
        found = os.fstat(descriptor)
    return f"{found.st_dev}:{found.st_ino}"


def test_a_directory_is_the_one_that_its_path_names(theirs):
    make_owned(theirs / "in", USER)
    assert opened(theirs / "in") == inode(theirs / "in")
    assert opened(Path("/")) == inode(Path("/"))


@pytest.mark.parametrize("owner", [USER, OTHER, 0])
def test_no_link_in_a_directory_of_another_user_leads_to_one_of_root(theirs, owner):
    link(theirs / "away", "/etc", owner)
    with refused(PathNotAllowed, option="path", value=str(theirs / "away")):
        opened(theirs / "away")
    with refused(PathNotAllowed, option="path", value=str(theirs / "away" / "ssl")):
        opened(theirs / "away" / "ssl")


def test_a_link_of_another_user_leads_to_directories_of_the_same_user(theirs, tmp_path):
    big = make_owned(tmp_path / "big", USER)
    assert opened(link(theirs / "data", str(big), USER)) == inode(big)
    with pytest.raises(PathNotAllowed):
        opened(link(theirs / "stolen", str(make_owned(tmp_path / "another's", OTHER)), USER))


def test_links_of_root_are_followed_where_only_root_can_make_them(theirs, tmp_path):
    (tmp_path / "sub").mkdir()
    assert opened(link(tmp_path / "short", "sub/../theirs", 0)) == inode(theirs)
    assert opened(link(tmp_path / "root", "/", 0)) == inode(Path("/"))


def test_a_link_in_a_directory_that_anybody_writes_to_is_not_followed(tmp_path, theirs):
    common = tmp_path / "common"
    common.mkdir()
    common.chmod(0o777)
    with pytest.raises(PathNotAllowed):
        opened(link(common / "link", str(theirs), 0))
    common.chmod(0o1777)
    assert opened(common / "link") == inode(theirs)
    with pytest.raises(PathNotAllowed):
        opened(link(common / "other", "/etc", OTHER))


def test_a_link_that_leads_up_leads_to_somebody_elses_directory(tmp_path, theirs):
    make_owned(theirs / "in", USER)
    for target in ("..", "in/../.."):
        path = link(theirs / f"link-{len(target)}", target, USER)
        with pytest.raises(PathNotAllowed), opened_parent(str(path)):
            pass
        with refused(PathNotAllowed, option="path", value=str(path)):
            opened(path)
    assert opened(link(theirs / "here", "in/..", USER)) == inode(theirs)


def test_a_link_that_stays_in_its_directory_is_followed_unless_only_its_owner_could_replace_it(tmp_path):
    common = tmp_path / "common"
    common.mkdir()
    (common / "image").write_bytes(b"")
    link(common / "latest", "image", OTHER)
    link(common / "newest", "../common/latest", 0)
    os.chown(common, 0, OTHER)
    for mode in (0o755, 0o775, 0o777):
        common.chmod(mode)
        with opened_parent(str(common / "newest")) as (directory, name):
            assert (name, os.fstat(directory).st_ino) == ("image", common.stat().st_ino)
    common.chmod(0o1777)
    with pytest.raises(PathNotAllowed), opened_parent(str(common / "latest")):
        pass
    common.chmod(0o777)
    link(common / "out", "../common/away", 0)
    link(common / "away", "../root's", 0)
    with pytest.raises(PathNotAllowed), opened_parent(str(common / "out")):
        pass


def test_a_circle_of_links_ends(tmp_path):
    link(tmp_path / "circle", "circle", 0)
    with refused(OSError, errno=errno.ELOOP):
        opened(tmp_path / "circle")


def test_the_last_component_may_be_missing_or_a_trusted_link(tmp_path, theirs):
    with opened_parent(str(theirs / "new")) as (_directory, name):
        assert name == "new"
    link(tmp_path / "file", "theirs/image", 0)
    with opened_parent(str(tmp_path / "file")) as (directory, name):
        assert (name, os.fstat(directory).st_ino) == ("image", theirs.stat().st_ino)
    with pytest.raises(PathNotAllowed), opened_parent(str(link(theirs / "file", "/etc/passwd", USER))):
        pass
    with pytest.raises(FileNotFoundError), opened_parent(str(theirs / "missing" / "file")):
        pass
    with opened_parent("/") as (_directory, name):
        assert name == "."


def test_only_regular_files_are_opened_and_no_links(tmp_path):
    (tmp_path / "file").write_bytes(b"content")
    link(tmp_path / "link", "file", 0)
    os.mkfifo(tmp_path / "fifo")
    with opened_directory(str(tmp_path)) as directory:
        descriptor = open_file_at(directory, "file")
        assert os.read(descriptor, 10) == b"content"
        os.close(descriptor)
        for name in ("link", "fifo", "."):
            with pytest.raises(OSError):
                open_file_at(directory, name)


def test_no_descriptor_stays_open(tmp_path, theirs):
    link(theirs / "away", "/etc", USER)
    before = os.listdir("/proc/self/fd")
    for path in (theirs, theirs / "missing" / "x", theirs / "away", tmp_path / "theirs" / "x"):
        try:
            opened(path)
        except (OSError, PathNotAllowed):
            pass
    assert len(os.listdir("/proc/self/fd")) == len(before)

# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""Mount points below directories that other users may change. The mounts themselves are in test_virtiofs_mount.py."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import PathNotAllowed, StaleState
from ansible_collections.granary.vmstore.plugins.module_utils._host.mount import point as mount_point
from refusal import refused

USER = 61001


def make_owned(path: Path, owner: int = USER, mode: int = 0o755) -> Path:
    path.mkdir()
    os.chown(path, owner, owner)
    path.chmod(mode)
    return path


def test_a_path_is_resolved_as_far_as_it_exists(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    assert mount_point.resolve(str(tmp_path / "link"), option="path") == (str(tmp_path / "real"), [])
    expected = [str(tmp_path / "real/a"), str(tmp_path / "real/a/b")]
    assert mount_point.resolve(str(tmp_path / "link/a/b"), option="path") == (expected[-1], expected)


def test_a_link_that_leads_to_nothing_names_what_is_missing(tmp_path):
    (tmp_path / "link").symlink_to("new")
    expected = [str(tmp_path / "new"), str(tmp_path / "new/a")]
    assert mount_point.resolve(str(tmp_path / "link/a"), option="path") == (expected[-1], expected)
    assert mount_point.resolve("/", option="path") == ("/", [])
    assert mount_point.resolve("/new", option="path") == ("/new", ["/new"])


@pytest.mark.parametrize("target", ["/etc", "/", "..", "../roots", "/home/../etc", "/new"])
def test_a_link_of_another_user_is_not_resolved(target, tmp_path):
    (tmp_path / "roots").mkdir()
    link = make_owned(tmp_path / "theirs") / "link"
    link.symlink_to(target)
    os.lchown(link, USER, USER)
    for path in (link, link / "new", link / "new/deeper"):
        with refused(PathNotAllowed, option="path", names=[link]):
            mount_point.resolve(str(path), option="path")


def test_a_directory_gets_its_mode_whatever_the_umask_is(tmp_path):
    before = os.umask(0o077)
    try:
        mount_point.create(str(tmp_path / "new"), 0o1777)
    finally:
        os.umask(before)
    assert (tmp_path / "new").stat().st_mode == 0o041777


def test_a_directory_that_is_swapped_while_it_is_created_keeps_its_mode(tmp_path, monkeypatch):
    theirs = make_owned(tmp_path / "theirs")
    bait = make_owned(theirs / "bait", mode=0o700)
    make = os.mkdir

    def swapped(name: str, mode: int, dir_fd: int) -> None:
        make(name, mode, dir_fd=dir_fd)
        bait.rename(theirs / name)

    monkeypatch.setattr(os, "mkdir", swapped)
    with refused(
        StaleState, says=f"The directory {theirs}/new was replaced by one of another user while it was created."
    ):
        mount_point.create(str(theirs / "new"), 0o777)
    assert (theirs / "new").stat().st_mode == 0o040700


@pytest.mark.parametrize("owner", [0, USER])
@pytest.mark.parametrize("mode", [0o755, 0o775, 0o777, 0o1777])
def test_directories_that_another_user_can_replace(owner, mode, tmp_path):
    above = make_owned(tmp_path / "above", owner, mode)
    (above / "roots").mkdir()
    make_owned(above / "theirs")
    changeable = {
        name
        for name in ("roots", "theirs", "missing")
        if mount_point.changeable_by_others(str(above / name / "x"), is_mounted=False) == str(above / name)
    }
    # In a sticky directory a name belongs to its owner, and root's own group has no other users.
    expected = {"roots", "theirs", "missing"} if owner or mode == 0o777 else {"theirs"} if mode == 0o1777 else set()
    assert changeable == expected
    assert mount_point.changeable_by_others(str(tmp_path / "roots/x"), is_mounted=False) is None

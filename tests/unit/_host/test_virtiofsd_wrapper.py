# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""The walk to a shared directory, its identity, and the command lines. tests/integration runs the wrapper itself."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._host.virtiofsd import (
    wrapper as virtiofsd_wrapper,
)
from ansible_collections.granary.vmstore.plugins.module_utils._host.virtiofsd.wrapper import (
    Found,
    Refused,
    UntrustedLink,
    check_maps,
    difference,
    find_directory,
    identify,
)
from refusal import refused

ALICE = 54321


@pytest.fixture
def top() -> Iterator[Path]:
    """Create a directory that only root can change, in /var/tmp, where all users can write.

    The sticky bit prevents other users from replacing the directory.
    """
    path = Path(
        subprocess.run(
            ["mktemp", "-d", "/var/tmp/granary-XXXXXX"], check=True, capture_output=True, text=True
        ).stdout.strip()
    )
    path.chmod(0o755)
    (path / "way" / "shared").mkdir(parents=True)
    yield path
    subprocess.run(["rm", "-rf", str(path)], check=True)


def walk_to(path: Path) -> Found:
    walked = find_directory(str(path))
    walked.close()
    return walked


def test_a_way_that_only_root_can_change(top: Path) -> None:
    walked = find_directory(str(top / "way" / "shared"))
    assert (walked.path, walked.weakness) == (str(top / "way" / "shared"), None)
    assert os.path.samestat(os.fstat(walked.descriptor), os.stat(walked.path))
    walked.close()


@pytest.mark.parametrize(
    ("owner", "group", "mode", "child", "reason"),
    [
        (ALICE, 0, 0o755, 0, f"belongs to the user id {ALICE}"),
        (ALICE, 0, 0o500, 0, f"belongs to the user id {ALICE}"),  # an owner can change the mode
        (0, 0, 0o757, 0, "can be changed by others than root (mode 0757)"),
        (0, ALICE, 0o775, 0, "can be changed by others than root (mode 0775)"),
        (0, 0, 0o775, 0, None),
        (0, 0, 0o1777, 0, None),
        (0, 0, 0o1777, ALICE, "can be changed by others than root (mode 1777)"),
        (0, ALICE, 0o755, ALICE, None),
    ],
)
def test_who_can_replace_a_directory(
    top: Path, owner: int, group: int, mode: int, child: int, reason: str | None
) -> None:
    os.chown(top / "way" / "shared", child, child)
    os.chown(top / "way", owner, group)
    (top / "way").chmod(mode)
    weakness = walk_to(top / "way" / "shared").weakness
    if reason is None:
        assert weakness is None
    else:
        assert (weakness.path, weakness.reason) == (str(top / "way"), reason)


def test_an_acl_that_lets_somebody_write(top: Path) -> None:
    # Attribute written by setfacl --modify user:54321:rwx: version 2, then tag, permissions and id of each entry.
    entries = [(1, 7, -1), (2, 7, ALICE), (4, 5, -1), (16, 7, -1), (32, 5, -1)]
    value = (2).to_bytes(4, "little") + b"".join(
        tag.to_bytes(2, "little") + allowed.to_bytes(2, "little") + owner.to_bytes(4, "little", signed=owner < 0)
        for tag, allowed, owner in entries
    )
    os.setxattr(top / "way", "system.posix_acl_access", value)
    assert walk_to(top / "way" / "shared").weakness.path == str(top / "way")


def test_the_first_weak_directory_counts_and_the_rest_of_the_way_is_known(top: Path) -> None:
    (top / "way" / "shared" / "deeper").mkdir()
    os.chown(top / "way", ALICE, ALICE)
    os.chown(top / "way" / "shared", ALICE + 1, ALICE)
    weakness = walk_to(top / "way" / "shared" / "deeper").weakness
    assert (weakness.path, [name for name, _descriptor in weakness.below]) == (str(top / "way"), ["shared", "deeper"])


def test_links_of_root_are_followed(top: Path) -> None:
    (top / "absolute").symlink_to(top / "way")
    (top / "relative").symlink_to("way/../absolute/./shared")
    assert walk_to(top / "relative").path == str(top / "way" / "shared")
    (top / "loop").symlink_to("loop")
    with refused(Refused, says=f"'{top}/loop' leads through more than 40 symbolic links"):
        walk_to(top / "loop")


def test_links_of_others_are_not(top: Path) -> None:
    (top / "way" / "link").symlink_to("shared")
    os.chown(top / "way", ALICE, ALICE)
    with refused(
        UntrustedLink, says=f"'{top}/way/link' is a symbolic link, and '{top}/way' belongs to the user id {ALICE}"
    ):
        walk_to(top / "way" / "link")
    # In a directory with the sticky bit, no other user can replace a link of root.
    os.chown(top / "way", 0, 0)
    (top / "way").chmod(0o1777)
    assert walk_to(top / "way" / "link").path == str(top / "way" / "shared")
    os.lchown(top / "way" / "link", ALICE, ALICE)
    with refused(
        UntrustedLink,
        says=f"'{top}/way/link' is a symbolic link, and '{top}/way' can be changed by others than root (mode 1777)",
    ):
        walk_to(top / "way" / "link")


def test_the_way_does_not_go_up_where_others_can_move_directories(top: Path) -> None:
    os.chown(top / "way", ALICE, ALICE)
    with refused(
        Refused,
        says=f"'{top}/way/shared/../shared' leads through '..' below '{top}/way', which belongs to the user id 54321",
    ):
        find_directory(f"{top}/way/shared/../shared")


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("file", "is no directory"),
        ("fifo", "is no directory"),
        ("none", "can't be opened: No such file or directory"),
        ("relative", "is not an absolute path"),
    ],
)
def test_only_a_directory(top: Path, kind: str, reason: str) -> None:
    path = top / kind
    if kind == "file":
        path.touch()
    elif kind == "fifo":
        os.mkfifo(path)
    given = kind if kind == "relative" else str(path)
    with refused(Refused, says=f"'{given}' {reason}"):
        find_directory(given)


def test_no_descriptor_stays_open(top: Path) -> None:
    os.chown(top / "way", ALICE, ALICE)
    before = os.listdir("/proc/self/fd")
    walk_to(top / "way" / "shared")
    assert os.listdir("/proc/self/fd") == before


def test_the_identity_is_what_stat_and_findmnt_say(top: Path) -> None:
    walked = find_directory(str(top / "way" / "shared"))
    identity = identify(walked)
    walked.close()
    command = ["findmnt", "--noheadings", "--raw", "--output", "TARGET,FSTYPE", "--target", walked.path]
    assert [identity.mount_point, identity.fstype] == subprocess.run(
        command, check=True, capture_output=True, text=True
    ).stdout.split()
    assert identity.inode == os.stat(walked.path).st_ino


@pytest.mark.parametrize(
    ("weak", "fstype", "changes", "differs"),
    [
        (False, "ext4", {"inode": 1}, False),  # root restored it from a backup
        (True, "ext4", {"inode": 1}, True),
        (True, "ext4", {"inode": 1, "boot": "another"}, True),
        (True, "tmpfs", {"inode": 1}, True),
        (True, "tmpfs", {"inode": 1, "boot": "another"}, False),
        (True, "fuse.sshfs", {"inode": 1}, False),
        (False, "ext4", {"mount_point": "/elsewhere"}, True),
        (True, "nfs4", {"boot": "another"}, False),
        (True, "nfs4", {"fstype": "nfs"}, False),
    ],
)
def test_which_changes_count(
    top: Path, monkeypatch: pytest.MonkeyPatch, weak: bool, fstype: str, changes: dict[str, object], differs: bool
) -> None:
    if weak:
        os.chown(top / "way", ALICE, ALICE)
    walked = find_directory(str(top / "way" / "shared"))
    now = replace(identify(walked), fstype=fstype)
    monkeypatch.setattr(virtiofsd_wrapper, "identify", lambda found: now)
    assert (difference(replace(now, **changes), walked, walked.path) is not None) is differs
    walked.close()


def test_a_record_of_another_path_is_one_of_a_link(top: Path) -> None:
    (top / "link").symlink_to("way")
    walked = find_directory(str(top / "link" / "shared"))
    assert (
        difference(identify(walked), walked, f"{top}/link/shared")
        == f"'{top}/link/shared' leads to '{top}/way/shared' through a symbolic link"
    )
    walked.close()


def test_records_that_are_none_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "exports.json"
    assert virtiofsd_wrapper.read_records(str(path)) == {}
    for text in ("{", "[]", '{"/srv": {}}', '{"/srv": 1}'):
        path.write_text(text)
        with refused(Refused, says=f"{path} holds no records of exports: *"):
            virtiofsd_wrapper.read_records(str(path))


@pytest.mark.parametrize(
    ("arguments", "shared"),
    [
        (["--fd=3", "--shared-dir", "/srv/a b", "--cache", "never"], "/srv/a b"),
        (["--shared-dir=/srv/a=b"], "/srv/a=b"),
        (["--fd=3", "-o", "source=/srv/a,cache=none,xattr", "--readonly"], "/srv/a"),
        (["-o", "cache=none"], None),
        ([], None),
        (["--shared-dir", "/a", "-o", "source=/b"], None),
    ],
)
def test_the_directory_in_a_command_line(arguments: list[str], shared: str | None) -> None:
    if shared is not None:
        assert virtiofsd_wrapper.shared_directory(arguments) == shared
    else:
        with refused(Refused, says="the command line names * shared directories and exactly one is expected"):
            virtiofsd_wrapper.shared_directory(arguments)


def test_maps_with_the_guests_root() -> None:
    check_maps(["--uid-map=:0:100000:65536:", "--gid-map", ":5:7:1:", "--gid-map", "/0/100000/5/"], "oneadmin")
    with refused(
        Refused,
        says="the device maps no gid of the host to the guest's id 0, so the guest could use files of "
        "the user oneadmin; add one to <idmap>",
    ):
        check_maps(["--uid-map=:0:100000:65536:", "--gid-map=:1:100000:65536:"], "oneadmin")


def test_whatever_goes_wrong_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    def refuse(_arguments: object) -> None:
        raise Refused("'/srv/two\nlines' is no directory")

    assert virtiofsd_wrapper.main([], refuse) == 1
    assert capsys.readouterr().err == "granary-virtiofsd: '/srv/two?lines' is no directory.\n"


def test_it_stands_alone() -> None:
    """The role installs this file as a program, without the collection."""
    done = subprocess.run(
        [sys.executable, "-IS", virtiofsd_wrapper.__file__], capture_output=True, text=True, check=False
    )
    assert done.stderr.startswith("granary-virtiofsd: ")

# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""Shared file systems of which only the name of the type is known."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import (
    DependencyMissing,
    InvalidInput,
    TimedOut,
)
from ansible_collections.granary.vmstore.plugins.module_utils._host.mount import mountinfo
from ansible_collections.granary.vmstore.plugins.module_utils._host.mount.nfs import Nfs
from ansible_collections.granary.vmstore.plugins.module_utils._host.mount.other_types import (
    LOCAL_TYPES,
    OtherType,
    check_type,
)
from ansible_collections.granary.vmstore.plugins.module_utils._host.mount.types import file_system_type, type_of_mount
from ansible_collections.granary.vmstore.plugins.module_utils._host.mount.virtiofs import Virtiofs
from refusal import refused

FILESYSTEMS = "nodev\tproc\nnodev\ttmpfs\nnodev\tceph\n\text4\n\tocfs2\n"


@pytest.fixture
def proc(tmp_path: Path) -> str:
    (tmp_path / "filesystems").write_text(FILESYSTEMS)
    return str(tmp_path)


def differences(fstype: str, words: list[str], options: str, super_options: str, proc: str = "/proc") -> set[str]:
    rules = OtherType(fstype, proc).options
    live = rules.live_settings(options.split(","), super_options.split(","))
    return rules.find_differences(live, rules.desired_settings(rules.check("options", words)))


# Types


@pytest.mark.parametrize(
    "name", ["ceph", "glusterfs", "cifs", "smb3", "fuse.sshfs", "fuse.a_b-c.d", "9p", "ocfs2", "ext4"]
)
def test_types(name: str) -> None:
    assert check_type("fstype", name) == name
    assert isinstance(file_system_type("fstype", name), OtherType)


@pytest.mark.parametrize(
    "name",
    [
        "",
        " nfs",
        "nfs ",
        "a b",
        "-t",
        "nfs;ls",
        "$(ls)",
        "../nfs",
        "a/b",
        "nfs\n",
        "ä",
        "fuse.",
        ".x",
        "a,b",
        "'x'",
        "nfs\x00",
    ]
    + sorted(LOCAL_TYPES),
)
def test_types_that_are_refused(name: str) -> None:
    with refused(InvalidInput, option="fstype", value=name):
        file_system_type("fstype", name)


def test_the_types_with_checks_of_their_own() -> None:
    assert isinstance(file_system_type("fstype", "nfs"), Nfs)
    assert isinstance(file_system_type("fstype", "virtiofs"), Virtiofs)


def test_a_live_mount_may_have_any_type() -> None:
    """A user can give a file system in user space any type after ``fuse.``."""
    for name in ("fuse.a b", "fuse.", "fuse.nfs;", "tmpfs", ""):
        assert type_of_mount(name).matches_type(name)


@pytest.mark.parametrize(
    ("name", "fstype", "same"),
    [
        ("sshfs", "fuse.sshfs", True),
        ("fuse.sshfs", "fuse.sshfs", True),
        ("glusterfs", "fuse.glusterfs", True),
        ("ceph", "ceph", True),
        ("ceph", "fuse.ceph-fuse", False),
        ("sshfs", "fuse", False),
        ("ext4", "ext3", False),
    ],
)
def test_the_kernel_shows_the_type_with_fuse(name: str, fstype: str, same: bool) -> None:
    assert OtherType(name).matches_type(fstype) is same


# Sources


@pytest.mark.parametrize(
    ("fstype", "source"),
    [
        ("ceph", "192.0.2.1,192.0.2.2:6789:/a b"),
        ("ceph", "one@.images=/"),
        ("cifs", "//server/share"),
        ("glusterfs", "server:/volume"),
        ("fuse.sshfs", "one@server:/x#y\\040z"),
        ("fuse.bindfs", "/srv/data"),
        ("ext4", "/dev/mapper/shared"),
        ("ocfs2", "UUID=6a8e0d7c-5b1d-4a35-9a8e-000000000001"),
        ("ocfs2", "LABEL=a b"),
        ("9p", "tag"),
    ],
)
def test_sources(fstype: str, source: str) -> None:
    assert OtherType(fstype).check_source("source", source) == source


@pytest.mark.parametrize(
    ("fstype", "source"),
    [
        *(
            ("ceph", source)
            for source in ("", " a:/", "a:/ ", "-o:/", "#a:/", "a:/\n", "a:/\x1b[2J", "a:/\x00", "\xa0x", "a:/\udcff")
        ),
        *(("fuse.bindfs", source) for source in ("/srv/../etc", "/srv/a\tb")),
        *(("ext4", source) for source in ("server:/x", "/srv/image", "sdb1", "FOO=x", "//server/share")),
    ],
)
def test_sources_that_are_refused(fstype: str, source: str) -> None:
    with refused(InvalidInput, option="source", value=source):
        OtherType(fstype).check_source("source", source)


def test_a_source_that_is_a_symbolic_link(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "link").symlink_to("data")
    with refused(InvalidInput, option="source", value=str(tmp_path / "link"), names=[tmp_path / "data"]):
        OtherType("fuse.bindfs").check_source("source", str(tmp_path / "link"))


def test_a_source_on_a_dead_mount_ends(datastore, monkeypatch) -> None:
    monkeypatch.setattr(f"{OtherType.__module__}._PROBE_TIMEOUT", 0.5)
    datastore.path().joinpath("data").mkdir()
    datastore.set(state="hung")
    with pytest.raises(TimedOut):
        OtherType("fuse.bindfs").check_source("source", str(datastore.path() / "new"))


def test_a_tag_of_virtiofs_is_checked() -> None:
    for source in ("#x", "a b", "LABEL=x", "nas:/x", "a\nb"):
        with refused(InvalidInput, option="source", value=source):
            file_system_type("fstype", "virtiofs").check_source("source", source)


# Options


def test_only_what_the_kernel_shows_is_compared(proc: str) -> None:
    words = ["name=one", "secretfile=/etc/one", "noatime", "acl"]
    assert differences("ceph", words, "rw,noatime", "rw,name=one,acl,wsize=16777216", proc) == set()
    assert differences("ceph", words, "rw,noatime", "rw,name=two,noacl", proc) == {"name", "acl"}
    assert differences("ceph", [], "rw,noexec,relatime", "rw", proc) == {"exec"}
    assert differences("ceph", [], "rw,nosuid,relatime", "rw", proc) == {"suid"}


def test_a_helper_in_user_space_may_add_nosuid_and_nodev(proc: str) -> None:
    live = ("rw,nosuid,nodev,relatime", "rw,user_id=0,group_id=0")
    assert differences("fuse.sshfs", [], *live, proc) == set()
    assert differences("sshfs", ["suid"], *live, proc) == {"suid"}
    assert differences("sshfs", ["nosuid"], "rw,relatime", "rw", proc) == {"suid"}


@pytest.mark.parametrize("words", [["acl", "noacl"], ["commit=5", "commit=6"], ["ro", "rw"]])
def test_words_that_contradict_each_other(words: list[str]) -> None:
    with refused(InvalidInput, value=",".join(words)):
        OtherType("ext4").options.check("options", words)


@pytest.mark.parametrize(
    "word",
    [
        *(
            "bind",
            "remount",
            "user",
            "users",
            "loop",
            "private",
            "nofail",
            "a b",
            "a\nb",
            "a=b\nc",
            "=x",
            'a="x',
            "ä=1",
        ),
        *("x-systemd.automount", "X-mount.subdir=x", "-o", "a\x00", "$(ls)", "a=\x1b"),
    ],
)
def test_words_that_are_refused(word: str) -> None:
    with refused(InvalidInput, option="options", value=word):
        OtherType("ceph").options.check("options", [word])


def test_what_a_remount_changes_depends_on_the_type() -> None:
    for fstype, expected in (("ext4", True), ("ocfs2", True), ("ceph", False)):
        assert ("commit" in OtherType(fstype).options.remountable) is expected
        assert "access" in OtherType(fstype).options.remountable


# Support


def test_a_type_of_the_kernel_is_supported(proc: str) -> None:
    OtherType("ceph", proc).require_supported()


def test_a_type_without_kernel_and_helper(proc: str, monkeypatch) -> None:
    monkeypatch.setenv("PATH", proc)
    with refused(DependencyMissing, names=["mount.lustre"]):
        OtherType("lustre", proc).require_supported()


def test_a_block_device_that_is_missing(proc: str) -> None:
    for source in ("/dev/null", "/dev/missing", "UUID=missing", "LABEL=../../null"):
        with refused(DependencyMissing, names=[source]):
            OtherType("ext4", proc).require_source(source)
    OtherType("ceph", proc).require_source("a:/")


def test_a_mount_of_the_same_source() -> None:
    (mount,) = mountinfo.parse("31 24 0:27 / /mnt rw - ceph 192.0.2.1:/a\\040b rw\n")
    assert OtherType("ceph").is_same_source(mount.source, "192.0.2.1:/a b")
    assert not OtherType("ceph").is_same_source(mount.source, "192.0.2.1:/a")
    assert not OtherType("ext4").is_same_source("/dev/missing", "/dev/null")

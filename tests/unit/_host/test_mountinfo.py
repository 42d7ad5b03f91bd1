# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import os
import subprocess

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._host.mount.fstab import escape
from ansible_collections.granary.vmstore.plugins.module_utils._host.mount.mountinfo import (
    aliases,
    mounts_at,
    parse,
    unescape,
    visible,
)
from hypothesis import given
from hypothesis import strategies as st

# Table of a Debian 13 guest with Linux 6.12, with virtiofs on a path with special characters. The last lines are a
# stack, and a higher mount that hides another one.
GUEST = r"""23 24 0:6 / /dev rw,relatime - devtmpfs dev rw,size=104272k,nr_inodes=26068,mode=755,inode64
24 1 254:0 / / rw,relatime - ext4 /dev/vda rw
25 24 0:21 / /proc rw,relatime - proc proc rw
30 24 0:26 / /tmp rw,relatime shared:5 master:1 - tmpfs tmp rw,inode64
31 24 0:27 / /mnt/b\040l#a\134nk\011t ro,noatime shared:7 - virtiofs one-1 rw,dax=never
32 24 0:28 /sub /srv/bind rw,relatime - virtiofs one-2 rw
33 24 0:29 / /mnt/stack rw,relatime - virtiofs one-3 rw
34 33 0:29 / /mnt/stack rw,relatime - virtiofs one-3 rw
35 24 0:30 / /srv/hidden/deep rw,relatime - virtiofs one-4 rw
36 24 0:31 / /srv/hidden rw,relatime - tmpfs  rw,size=4k
"""


def test_fields():
    mount = parse(GUEST)[4]
    assert (mount.mount_id, mount.parent_id, mount.device, mount.root) == (31, 24, "0:27", "/")
    assert mount.mount_point == "/mnt/b l#a\\nk\tt"
    assert (mount.options, mount.fstype, mount.source, mount.super_options) == (
        ("ro", "noatime"),
        "virtiofs",
        "one-1",
        ("rw", "dax=never"),
    )


def test_an_empty_source_and_a_root_below():
    mounts = parse(GUEST)
    assert mounts[-1].source == ""
    assert mounts[5].root == "/sub"


def test_what_only_python_takes_for_a_line_end_or_a_blank_is_part_of_a_path():
    text = "31 24 0:27 / /mnt/a\x85b\xa0c\x1cd rw - virtiofs one-1 rw\n"
    assert [mount.mount_point for mount in parse(text)] == ["/mnt/a\x85b\xa0c\x1cd"]


def walk_ids(path: str) -> list[int]:
    return [mount.mount_id for mount in visible(parse(GUEST), path)]


def test_a_walk_passes_what_serves_the_path():
    assert walk_ids("/etc") == [24]
    assert walk_ids("/mnt/b l#a\\nk\tt/x") == [24, 31]
    assert walk_ids("/mnt/b") == [24]


def test_a_walk_passes_a_stack_from_its_bottom():
    assert walk_ids("/mnt/stack") == [24, 33, 34]


def test_a_walk_does_not_pass_a_hidden_mount():
    assert walk_ids("/srv/hidden/deep") == [24, 36]
    assert [mount.mount_id for mount in mounts_at(parse(GUEST), "/srv/hidden/deep")] == [35]


# /srv/bind shows /sub of a file system that /srv/all shows as a whole. The root of /srv/volume differs from the root of
# its device.
BINDS = r"""24 1 254:0 / / rw - ext4 /dev/vda rw
25 24 254:0 /etc /mnt/conf rw - ext4 /dev/vda rw
26 24 0:28 / /srv/all rw - virtiofs one-2 rw
27 24 0:28 /sub /srv/bind rw - virtiofs one-2 rw
28 24 0:4 net:[4026532] /run/netns/x rw - nsfs nsfs rw
29 24 0:31 /@home /srv/volume rw - btrfs /dev/vdb rw
"""


@pytest.mark.parametrize(
    ("path", "names"),
    [
        ("/mnt/conf/ssh", ["/etc/ssh", "/mnt/conf/ssh"]),
        ("/etc/ssh", ["/etc/ssh", "/mnt/conf/ssh"]),
        ("/mnt/other", ["/mnt/other"]),
        ("/srv/bind/x", ["/srv/all/sub/x", "/srv/bind/x"]),
        ("/srv/all/x", ["/srv/all/x"]),
        ("/srv/volume/alice", ["/srv/volume/alice"]),
        ("/run/netns/x", []),
    ],
)
def test_one_directory_under_several_names(path, names):
    assert aliases(parse(BINDS), path) == names


def test_this_machine_agrees_with_findmnt(tmp_path):
    """findmnt parses the same table with its own code: a copy, because other programs mount and unmount meanwhile."""
    with open("/proc/self/mountinfo", "rb") as file:
        table = file.read()
    (tmp_path / "mountinfo").write_bytes(table)
    ours = [(mount.mount_id, mount.mount_point, mount.fstype) for mount in parse(os.fsdecode(table))]
    command = ["findmnt", "--tab-file", tmp_path / "mountinfo", "--noheadings", "--pairs", "-o", "ID,TARGET,FSTYPE"]
    listed = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    theirs = [line.split('"')[1::2] for line in os.fsdecode(listed.stdout).splitlines()]
    assert sorted(ours) == sorted((int(number), target, fstype) for number, target, fstype in theirs)


@given(st.text(st.characters(codec="utf-8")))
def test_unescape_reverses_escape(text: str) -> None:
    escaped = escape(text)
    assert unescape(escaped) == text
    assert not set(escaped) & set(" \t\n")


@given(st.binary())
def test_unescape_reverses_the_kernel(data: bytes) -> None:
    """The kernel escapes four characters (seq_path(9)), and other programs may escape any byte."""
    text = data.decode("utf-8", "surrogateescape")
    some = "".join(f"\\{ord(one):03o}" if one in " \t\n\\#" else one for one in text)
    assert unescape(some) == text
    assert unescape("".join(f"\\{byte:03o}" for byte in data)) == text


def test_an_escape_is_a_byte_and_not_a_character() -> None:
    assert unescape("/mnt/caf\\303\\251") == "/mnt/café"
    assert unescape("\\400 \\08 \\") == "\\400 \\08 \\"


def test_a_source_of_another_user_has_no_control_characters_in_messages() -> None:
    (mount,) = parse("40 24 0:50 / /home/a/m rw,nosuid,nodev - fuse.x\\040y \x1b[2Jnas rw,user_id=1000\n")
    assert (mount.fstype, mount.source) == ("fuse.x y", "\x1b[2Jnas")
    assert str(mount).isprintable()

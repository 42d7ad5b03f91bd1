# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import subprocess

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._host.mount.fstab import (
    FstabEntry,
    parse,
    replace_entries,
)

# Entries of Debian's installer, of cloud-init, and of people.
FSTAB = """# /etc/fstab: static file system information.
#
UUID=6a8e0d7c-5b1d-4a35-9a8e-000000000001 /               ext4    errors=remount-ro 0       1
\t# one-9 /mnt/no virtiofs ro 0 0

one-1\t/mnt/one-fs-1\tvirtiofs\tnofail,comment=cloudconfig\t0\t0
one-2 /srv/with\\040blank\\134// virtiofs ro,nofail
nas:/export /net nfs
tmpfs /tmp tmpfs size=1g 0 0
broken line
"""


def find_entries(text: str, point: str) -> list[FstabEntry]:
    return [entry for entry in parse(text) if entry.mount_point == point]


def test_entries():
    entries = parse(FSTAB)
    assert [(entry.line, entry.source, entry.mount_point, entry.fstype) for entry in entries] == [
        (3, "UUID=6a8e0d7c-5b1d-4a35-9a8e-000000000001", "/", "ext4"),
        (6, "one-1", "/mnt/one-fs-1", "virtiofs"),
        (7, "one-2", "/srv/with blank\\", "virtiofs"),
        (8, "nas:/export", "/net", "nfs"),
        (9, "tmpfs", "/tmp", "tmpfs"),
    ]
    assert [(entry.options, entry.dump, entry.check) for entry in entries] == [
        (("errors=remount-ro",), "0", "1"),
        (("nofail", "comment=cloudconfig"), "0", "0"),
        (("ro", "nofail"), "0", "0"),
        (("defaults",), "0", "0"),
        (("size=1g",), "0", "0"),
    ]


@pytest.mark.parametrize(
    ("options", "same"),
    [
        (("nofail", "ro"), True),
        (("rw", "ro", "nofail", "defaults"), True),
        (("ro", "nofail", "comment=cloudconfig"), True),
        (("ro",), False),
        (("ro", "nofail", "x-a"), False),
    ],
)
def test_meaning_ignores_order_defaults_and_cloud_inits_mark_alone(options, same):
    assert (
        FstabEntry("a", "/b", "virtiofs", ("ro", "nofail")).means(FstabEntry("a", "/b", "virtiofs", options, line=7))
        is same
    )
    assert not FstabEntry("a", "/b", "virtiofs", options, check="2").means(FstabEntry("a", "/b", "virtiofs", options))


def test_add_at_the_end():
    assert (
        replace_entries(FSTAB, [], FstabEntry("one-3", "/mnt/c", "virtiofs", ()))
        == FSTAB + "one-3 /mnt/c virtiofs defaults 0 0\n"
    )
    assert (
        replace_entries("# no end", [], FstabEntry("one-3", "/mnt/c", "virtiofs", ("ro",)))
        == "# no end\none-3 /mnt/c virtiofs ro 0 0\n"
    )
    assert (
        replace_entries("", [], FstabEntry("one-3", "/mnt/c", "virtiofs", ("ro",))) == "one-3 /mnt/c virtiofs ro 0 0\n"
    )


def test_replace_in_place_and_nothing_else():
    lines = FSTAB.split("\n")
    lines[5] = "one-1 /mnt/one-fs-1 virtiofs ro 0 0"
    assert replace_entries(
        FSTAB, find_entries(FSTAB, "/mnt/one-fs-1"), FstabEntry("one-1", "/mnt/one-fs-1", "virtiofs", ("ro",))
    ) == "\n".join(lines)


def test_several_become_one_at_the_place_of_the_first():
    text = "a /x virtiofs ro 0 0\n# between\nb /x virtiofs ro 0 0\n"
    assert (
        replace_entries(text, find_entries(text, "/x"), FstabEntry("c", "/x", "virtiofs", ("ro",)))
        == "c /x virtiofs ro 0 0\n# between\n"
    )


def test_remove_leaves_every_other_byte():
    text = "# caf\udce9 \x85 \x0c\r\na /x virtiofs ro 0 0\n  b\t/y ext4 \x0b 0 0\r\nno end"
    assert replace_entries(text, find_entries(text, "/x"), None) == text.replace("a /x virtiofs ro 0 0\n", "")
    assert replace_entries("a /x virtiofs ro 0 0\n", find_entries("a /x virtiofs ro 0 0\n", "/x"), None) == ""


@pytest.mark.parametrize(
    "point", ["/mnt/a b", "/mnt/tab\tbed", "/mnt/back\\slash", "/mnt/\\040", "/mnt/#x", "/mnt/é\xa0", "/mnt/a,b"]
)
def test_findmnt_reads_the_mount_point_that_was_written(point, tmp_path):
    entry = FstabEntry("one-1", point, "virtiofs", ("ro", 'context="a,b"'))
    # An invalid line crashes the findmnt of Debian 13 (util-linux 2.41.5).
    (tmp_path / "fstab").write_text(replace_entries(FSTAB.replace("broken line\n", ""), [], entry), encoding="utf-8")
    command = [
        "findmnt",
        "--tab-file",
        str(tmp_path / "fstab"),
        "--noheadings",
        "--raw",
        "-o",
        "TARGET,FSTYPE,OPTIONS",
        "--source",
        "one-1",
        "--target",
        point,
    ]
    told = subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout.decode()
    assert told.split(" ")[1:] == ["virtiofs", 'ro,context="a,b"\n']
    assert [entry.mount_point for entry in parse(replace_entries("", [], entry))] == [point]

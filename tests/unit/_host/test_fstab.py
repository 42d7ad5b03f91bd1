# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import re
import subprocess

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import InvalidInput
from ansible_collections.granary.vmstore.plugins.module_utils._core.paths import absolute
from ansible_collections.granary.vmstore.plugins.module_utils._core.records import replace
from ansible_collections.granary.vmstore.plugins.module_utils._host.mount.fstab import (
    FstabEntry,
    parse,
    replace_entries,
)
from ansible_collections.granary.vmstore.plugins.module_utils._host.mount.types import file_system_type
from hypothesis import assume, given
from hypothesis import strategies as st

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


# Every entry that the options of the modules can make


def accept(strategy: st.SearchStrategy[str], check) -> st.SearchStrategy[str]:
    """Return the texts that ``check`` accepts, as it returns them."""

    def pick(text: str) -> str:
        try:
            return check(text)
        except InvalidInput:
            assume(False)
            raise

    return strategy.map(pick)


#: Characters with a meaning in fstab(5), in mount(8) or in a table of mounts, and any others.
LETTERS = st.one_of(st.sampled_from("/ \\\t\n#,=\"'0:%[]"), st.characters(codec="utf-8"), st.sampled_from("abc"))
TEXTS = st.text(LETTERS, min_size=1, max_size=20)
POINTS = accept(TEXTS.map(lambda text: f"/{text}"), lambda text: absolute("path", text)).filter(
    lambda text: text != "/"
)
TYPES = st.sampled_from(["nfs", "nfs4", "ceph", "fuse.sshfs", "glusterfs", "ext4"])
PLAIN_WORDS = ["ro", "noatime", "x-a=b", "_netdev", 'context="u:r:t:s0:c1,c2"', "vers=3", "hard", "name=a\\b"]
WORDS = st.one_of(st.sampled_from(PLAIN_WORDS), st.text(LETTERS, min_size=1, max_size=8))


@st.composite
def entries(draw: st.DrawFn) -> FstabEntry:
    fstype = draw(TYPES)
    file_system = file_system_type("fstype", fstype)
    prefix = {"nfs": "nas:/", "nfs4": "[2001:db8::1]:/", "ext4": "/dev/"}.get(fstype, "")
    source = draw(accept(TEXTS.map(lambda text: prefix + text), lambda text: file_system.check_source("source", text)))
    words: list[str] = []
    for word in draw(st.lists(WORDS, max_size=4)):
        try:
            words = list(file_system.options.check("options", [*words, word]))
        except InvalidInput:
            continue
    options = (*words, *(word for word in ("_netdev", "nofail") if word not in words))
    return FstabEntry(source, draw(POINTS), fstype, options)


@given(entries())
def test_what_is_written_is_read_again(entry: FstabEntry) -> None:
    text = str(entry)
    assert "\n" not in text
    (read,) = parse(f"{text}\n")
    assert replace(read, line=0) == entry
    assert read.means(entry)


FOREIGN = st.text(st.one_of(st.sampled_from(" \t#/ab\r\\"), st.characters()), max_size=30).filter(
    lambda line: "\n" not in line
)


@given(st.lists(FOREIGN, max_size=6), entries(), st.booleans(), st.integers(0, 6))
def test_foreign_lines_stay_to_the_byte(foreign: list[str], entry: FstabEntry, ended: bool, place: int) -> None:
    place = min(place, len(foreign))
    others = [line for line in foreign if entry.mount_point not in {one.mount_point for one in parse(line)}]
    place = min(place, len(others))
    end = "\n" if ended else ""
    text = "\n".join([*others[:place], str(entry), *others[place:]]) + end
    present = find_entries(text, entry.mount_point)
    assert len(present) == 1
    other = FstabEntry("nas:/other", entry.mount_point, "nfs", ("ro",))
    assert replace_entries(text, present, other) == "\n".join([*others[:place], str(other), *others[place:]]) + end
    assert replace_entries(text, present, entry) == text
    removed = replace_entries(text, present, None)
    assert removed == "\n".join([*others[:place], *others[place:]]) + (end if others else "")
    before = "".join(f"{line}\n" for line in others)
    assert replace_entries(before, [], entry) == f"{before}{entry}\n"


@given(st.text(st.one_of(st.sampled_from(" \t\n#/ab\r\\0"), st.characters())))
def test_any_text_is_read_without_an_error(text: str) -> None:
    for entry in parse(text):
        assert text.split("\n")[entry.line - 1].strip(" \t").startswith(re.split("[ \t]", str(entry))[0][:1])
    assert replace_entries(text, [], None) == text


def test_a_foreign_entry_with_escaped_bytes_is_the_same_path() -> None:
    (entry,) = parse("nas:/x /mnt/caf\\303\\251 nfs ro 0 0\n")
    assert entry.mount_point == "/mnt/café"

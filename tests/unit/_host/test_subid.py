# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._host.ids import subid
from ansible_collections.granary.vmstore.plugins.module_utils._host.ids.subid import SubidRange

TEXT = "# comment\r\nalice:100000:65536\nbroken line\n\nbob:200000:65536\n1234:300000:10\nalice:400000:5"


def test_only_ranges_are_read() -> None:
    assert subid.parse(TEXT) == [
        SubidRange("alice", 100000, 65536),
        SubidRange("bob", 200000, 65536),
        SubidRange("1234", 300000, 10),
        SubidRange("alice", 400000, 5),
    ]


@pytest.mark.parametrize(
    "line",
    [
        "",
        "#alice:1:2",
        "alice:1",
        "alice:1:0",
        "alice:-1:5",
        "alice:x:5",
        "alice:1:2 ",
        "alice:1:2\r",
        " alice:1:2",
        "a b:1:2",
        "alice:\u0663:5",
        "alice:99999999999:1",
    ],
)
def test_lines_that_are_no_range(line: str) -> None:
    assert subid.parse_line(line) is None


LINES = [
    "100:5",
    "0x100:5",
    "0100:5",
    "+100:5",
    " 100:5",
    "100: 5",
    "100:5:",
    "100:5:junk",
    "100:5 ",
    "100:5\r",
    "100 :5",
    "09:5",
    "0x:5",
    ":5",
    "100:",
]


@pytest.mark.parametrize("line", LINES)
def test_a_line_counts_as_the_shadow_suite_counts_it(tmp_path: Path, line: str) -> None:
    (tmp_path / "subuid").write_text(f"daemon:{line}\n")
    script = 'mount --bind "$1" /etc/subuid && getsubids daemon || [ $? = 1 ]'
    done = subprocess.run(
        ["unshare", "-m", "sh", "-ec", script, "sh", tmp_path / "subuid"], check=True, capture_output=True, text=True
    )
    found = subid.parse_line(f"daemon:{line}")
    assert ([found] if found else []) == subid.parse_getsubids(done.stdout)


def test_other_lines_stay_as_they_are() -> None:
    text = subid.replace_entries(TEXT, {"alice"}, [SubidRange("alice", 7, 8)])
    assert text == "# comment\r\nalice:7:8\nbroken line\n\nbob:200000:65536\n1234:300000:10\n"


def test_a_new_range_goes_to_the_end_on_a_line_of_its_own() -> None:
    assert subid.replace_entries("bob:1:2", {"alice"}, [SubidRange("alice", 7, 8)]) == "bob:1:2\nalice:7:8\n"
    assert subid.replace_entries("", {"alice"}, [SubidRange("alice", 7, 8)]) == "alice:7:8\n"


def test_removing_takes_every_range_of_the_owner() -> None:
    assert (
        subid.replace_entries(TEXT, {"alice"}, []) == "# comment\r\nbroken line\n\nbob:200000:65536\n1234:300000:10\n"
    )


@pytest.mark.parametrize(
    ("one", "other", "overlap"),
    [
        ((100, 10), (110, 10), False),
        ((100, 10), (109, 1), True),
        ((100, 10), (90, 10), False),
        ((100, 10), (90, 11), True),
        ((100, 10), (102, 2), True),
    ],
)
def test_overlap(one: tuple[int, int], other: tuple[int, int], overlap: bool) -> None:
    assert SubidRange("a", *one).overlaps(SubidRange("b", *other)) is overlap


def test_what_getsubids_prints_is_read() -> None:
    assert subid.parse_getsubids("0: oneadmin 100000 65536\n1: oneadmin 300000 10\n") == [
        SubidRange("oneadmin", 100000, 65536),
        SubidRange("oneadmin", 300000, 10),
    ]
    assert subid.parse_getsubids("Error fetching ranges\n") == []


def test_the_source_is_what_nsswitch_says(tmp_path) -> None:
    assert subid.nss_source(str(tmp_path)) == "files"
    (tmp_path / "nsswitch.conf").write_text("passwd: files\n# subid: ldap\nsubid:   sss # central\n")
    assert subid.nss_source(str(tmp_path)) == "sss"


def test_a_range_is_owned_by_name_or_by_uid(tmp_path) -> None:
    (tmp_path / "subuid").write_text("daemon:100000:10\n1:200000:10\nbin:300000:10\n")
    assert [found.start for found in subid.ranges_of("daemon", "uid", str(tmp_path))] == [100000, 200000]


def test_only_a_line_feed_ends_a_line() -> None:
    comment = "# moved:\x0calice:100000:65536\u2028bob:200000:65536\x85"
    assert subid.parse(comment) == []
    assert subid.replace_entries(comment, {"alice"}, [SubidRange("alice", 7, 8)]) == f"{comment}\nalice:7:8\n"

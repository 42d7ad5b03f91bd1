# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import Conflict
from ansible_collections.granary.vmstore.plugins.module_utils._host.nfs.exports_file import (
    Export,
    ExportedTo,
    parse,
    read_exports,
    replace_entries,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from refusal import refused

# Lines of Debian's package, of exports(5), and of people.
EXPORTS = """# /etc/exports: the access control list for filesystems which may be exported
#\t\tto NFS clients.  See exports(5).
#
/               master(rw) trusty(rw,no_root_squash)
/srv/www        -sync,rw server @trusted @external(ro)

  "/srv/with blank//" \\
    2001:db8:9:e54::/64(rw) \\
    192.0.2.0/255.255.255.0(rw,async)   # the rest \\
/srv/tab\\011\\134x\t*(ro)
/srv/all
/srv/caf\\303\\251 build[0-9].example.org
"""


def summarize(text: str) -> list[tuple[int, str, list[str]]]:
    return [(one.line, one.path, [f"{to.client}({','.join(to.words)})" for to in one.clients]) for one in parse(text)]


def test_entries() -> None:
    assert summarize(EXPORTS) == [
        (4, "/", ["master(rw)", "trusty(rw,no_root_squash)"]),
        (5, "/srv/www", ["server(sync,rw)", "@trusted(sync,rw)", "@external(sync,rw,ro)"]),
        (7, "/srv/with blank", ["2001:db8:9:e54::/64(rw)", "192.0.2.0/255.255.255.0(rw,async)"]),
        (10, "/srv/tab\t\\x", ["*(ro)"]),
        (11, "/srv/all", ["*()"]),
        (12, "/srv/café", ["build[0-9].example.org()"]),
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/a *(rw)\r\n/b *(ro)\r\n", [(1, "/a", ["*(rw)"]), (2, "/b", ["*(ro)"])]),
        ("/a (rw)", [(1, "/a", ["*(rw)"])]),
        ("/a -rw,insecure", [(1, "/a", ["*(rw,insecure)"])]),
        # exportfs stops at such clients, and everything behind them in the file isn't exported.
        ("/a x(rw y(ro)", [(1, "/a", ["y(ro)"])]),
        ("/a x(rw)y z(ro)", [(1, "/a", ["z(ro)"])]),
        ("/a#b x#y(rw)", [(1, "/a#b", ["x#y(rw)"])]),
        ("/a x(rw) #/b y(rw)\n", [(1, "/a", ["x(rw)"])]),
        # A backslash doesn't continue a comment.
        ("# \\\n/a x(rw)\n", [(2, "/a", ["x(rw)"])]),
        ("/a x(rw)\\\n /b\n", [(1, "/a", ["x(rw)", "/b()"])]),
        ('"/a\nb" x(rw)', [(1, "/a\nb", ["x(rw)"])]),
        ('/"a b"/c "x"(rw)', [(1, "/a b/c", ["x(rw)"])]),
        ('"/no end x(rw)\n', [(1, "/no end x(rw)\n", ["*()"])]),
        ("\\057a x(rw)", [(1, "/a", ["x(rw)"])]),
        ("/a\\777 x\\", [(1, "/a\\777", ["x\\()"])]),
        ("/a x(rw,,\tro,)", [(1, "/a", ["ro,)()"])]),
        ("/a x(rw,,ro,)", [(1, "/a", ["x(rw,ro)"])]),
        ("", []),
        (" \n\t\n\\\n", []),
    ],
)
def test_notations(text: str, expected: object) -> None:
    assert summarize(text) == expected


def test_an_entry_is_added_at_the_end() -> None:
    new = Export("/srv/a b", (ExportedTo("x", ("rw", "sync")), ExportedTo("*", ())))
    assert replace_entries(EXPORTS, [], new) == EXPORTS + "/srv/a\\040b x(rw,sync) *()\n"
    assert replace_entries("# no end", [], new) == "# no end\n/srv/a\\040b x(rw,sync) *()\n"
    assert replace_entries("", [], new) == "/srv/a\\040b x(rw,sync) *()\n"


def test_several_entries_become_one_at_the_place_of_the_first() -> None:
    text = "/x a(rw)\n# between\n/x \\\n  b(ro)\n/y *()"
    old = [one for one in parse(text) if one.path == "/x"]
    assert replace_entries(text, old, Export("/x", (ExportedTo("c", ()),))) == "/x c()\n# between\n/y *()"
    assert replace_entries(text, old, None) == "# between\n/y *()"


@pytest.mark.parametrize("text", ["/a x(rw) \\\n", "/a x(rw) \\", '"/a\n', '# comment\n/a "x'])
def test_a_last_line_without_an_end_takes_no_other_line(text: str) -> None:
    with pytest.raises(Conflict):
        replace_entries(text, [], Export("/b", (ExportedTo("*", ()),)), "/etc/exports.d/b.exports")


def test_message_of_a_line_without_an_end() -> None:
    with refused(
        Conflict,
        says="The last line of /etc/exports.d/b.exports continues behind its end, by a backslash or an open quotation "
        "mark, so that no line can be added: end that line.",
    ):
        replace_entries("/a x(rw) \\\n", [], Export("/b", (ExportedTo("*", ()),)), "/etc/exports.d/b.exports")


def test_files_are_those_of_exportfs(tmp_path) -> None:
    (tmp_path / "exports").write_text("/a *(rw)\n")
    (tmp_path / "exports.d").mkdir()
    for name in ("b.exports", "c.exports", ".hidden.exports", "d.conf", "e.exports~"):
        (tmp_path / "exports.d" / name).write_text(f"\n/{name} *(rw)\n")
    (tmp_path / "exports.d" / "directory.exports").mkdir()
    assert [(one.path, one.file, one.line) for one in read_exports(str(tmp_path))] == [
        ("/a", f"{tmp_path}/exports", 1),
        ("/b.exports", f"{tmp_path}/exports.d/b.exports", 2),
        ("/c.exports", f"{tmp_path}/exports.d/c.exports", 2),
    ]
    assert read_exports(str(tmp_path / "nothing")) == []


# Properties

characters = st.characters(codec="utf-8", exclude_characters="\0/\\")
paths = st.lists(st.text(characters, min_size=1), min_size=1).map(lambda parts: "/" + "/".join(parts))
words = st.text(st.characters(codec="ascii", min_codepoint=33, exclude_characters='(),"\\#-'), min_size=1)
exports = st.builds(
    Export, paths, st.lists(st.builds(ExportedTo, words, st.lists(words).map(tuple)), min_size=1).map(tuple)
)
#: Files in which the characters with a meaning are frequent.
files = st.lists(
    st.one_of(st.sampled_from([*'/ab#"\\ \t\n\r(),-', "\\\n", "\\040", "/a x(rw)\n", "\udcff"]), st.text(max_size=3))
).map("".join)
thorough = settings(deadline=None, database=None, max_examples=100)


@thorough
@given(exports)
def test_an_entry_is_read_as_it_was_printed(entry: Export) -> None:
    assert [(one.path, one.clients) for one in parse(str(entry))] == [(entry.path, entry.clients)]


@thorough
@given(files, exports)
def test_an_edit_leaves_the_lines_of_others(text: str, new: Export) -> None:
    before = parse(text)
    for old in ([], before[:1], before[1:]):
        try:
            changed = replace_entries(text, old, new)
        except Conflict:
            continue
        kept = [one for one in before if one not in old]
        assert [(one.path, one.clients) for one in parse(changed) if one.path != new.path] == [
            (one.path, one.clients) for one in kept if one.path != new.path
        ]
        data, rest = text.encode("utf-8", "surrogateescape"), changed.encode("utf-8", "surrogateescape")
        assert rest.replace(f"{new}\n".encode(), b"", 1).rstrip(b"\n") == b"".join(
            part for part in pieces(data, old)
        ).rstrip(b"\n")


def pieces(data: bytes, old: list[Export]) -> list[bytes]:
    """Return the parts of a file without some entries."""
    places = [0, *(place for one in old for place in (one.start, one.end)), len(data)]
    return [data[start:end] for start, end in zip(places[::2], places[1::2])]  # noqa: B905  # Python 3.9


@thorough
@given(files)
def test_any_text_can_be_read(text: str) -> None:
    for one in parse(text):
        assert 0 <= one.start < one.end <= len(text.encode("utf-8", "surrogateescape"))

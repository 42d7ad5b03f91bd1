# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import InvalidInput, PathNotAllowed
from ansible_collections.granary.vmstore.plugins.module_utils._core.paths import absolute, check_allowed, is_within
from refusal import refused


@pytest.mark.parametrize(
    ("given", "result"),
    [("/mnt/data", "/mnt/data"), ("//mnt//./data/", "/mnt/data"), ("/", "/"), ("/a b/$(x)", "/a b/$(x)")],
)
def test_a_path_is_tidied(given: str, result: str) -> None:
    assert absolute("path", given) == result


@pytest.mark.parametrize(
    ("accepted", "given"),
    [
        ("an absolute path such as '/mnt/data'", ["", "mnt"]),
        ("a path without '..'", ["/a/../etc", "/.."]),
        ("a path in UTF-8 without control characters", ["/a\nb", "/a\0b", "/a\x7f", "/a\udcff", "/a\uffff"]),
        ("a path of at most 4095 bytes", ["/a" * 2048]),
    ],
)
def test_other_paths_are_refused(accepted: str, given: list[str]) -> None:
    for path in given:
        with refused(InvalidInput, value=path, says=f"path: * is not accepted: {accepted} is expected."):
            absolute("path", path)


def test_within_goes_by_components() -> None:
    assert is_within("/x/safe/a", "/x/safe")
    assert is_within("/x/safe", "/x/safe")
    assert is_within("/x", "/")
    assert not is_within("/x/safe-evil", "/x/safe")


@pytest.mark.parametrize(
    ("path", "safe", "restricted", "refusal"),
    [
        ("/mnt/data", [], "/etc", None),
        ("/etc", [], "/etc", "is or contains"),
        ("/etc/x", [], "/etc", "lies in"),
        ("/", [], "/etc", "is or contains"),
        ("/var/lib", [], "/var/lib/one", "is or contains"),
        ("/etc/shared/x", ["/etc/shared"], "/etc", None),
        ("/etc/shared-evil", ["/etc/shared"], "/etc", "lies in"),
        ("/mnt/data", ["/mnt"], "/", None),
        ("/srv/data", ["/mnt"], "/", "lies in"),
        ("/etc/x", ["/"], "/etc", "lies in"),
        ("/etc", ["/etc"], "/etc", "is or contains"),
        ("/etc/x", ["/etc"], "/etc", None),
        ("/mnt", ["/mnt"], "/mnt/secret", "is or contains"),
    ],
)
def test_the_more_specific_of_safe_and_restricted_wins(
    path: str, safe: list[str], restricted: str, refusal: str | None
) -> None:
    if refusal is None:
        check_allowed("path", path, safe=safe, restricted=[restricted])
    else:
        sentence = f"path: '{path}' is not accepted: it {refusal} the restricted directory {restricted}."
        with refused(PathNotAllowed, says=sentence):
            check_allowed("path", path, safe=safe, restricted=[restricted])


def test_a_restricted_directory_behind_a_link_is_restricted(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    with pytest.raises(PathNotAllowed):
        check_allowed("path", str(tmp_path / "real" / "x"), safe=[], restricted=[str(tmp_path / "link")])

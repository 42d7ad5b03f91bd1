# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import InvalidInput, PathNotAllowed
from ansible_collections.granary.vmstore.plugins.module_utils._core.paths import absolute, check_allowed, is_within


@pytest.mark.parametrize(
    ("given", "result"),
    [("/mnt/data", "/mnt/data"), ("//mnt//./data/", "/mnt/data"), ("/", "/"), ("/a b/$(x)", "/a b/$(x)")],
)
def test_a_path_is_tidied(given: str, result: str) -> None:
    assert absolute("path", given) == result


@pytest.mark.parametrize(
    "given", ["", "mnt", "/a/../etc", "/..", "/a\nb", "/a\0b", "/a\x7f", "/a\udcff", "/a\uffff", "/a" * 2048]
)
def test_other_paths_are_refused(given: str) -> None:
    with pytest.raises(InvalidInput, match=r"^path: "):
        absolute("path", given)


def test_within_goes_by_components() -> None:
    assert is_within("/x/safe/a", "/x/safe")
    assert is_within("/x/safe", "/x/safe")
    assert is_within("/x", "/")
    assert not is_within("/x/safe-evil", "/x/safe")


@pytest.mark.parametrize(
    ("path", "safe", "restricted", "allowed"),
    [
        ("/mnt/data", [], ["/etc"], True),
        ("/etc", [], ["/etc"], False),
        ("/etc/x", [], ["/etc"], False),
        ("/", [], ["/etc"], False),
        ("/var/lib", [], ["/var/lib/one"], False),
        ("/etc/shared/x", ["/etc/shared"], ["/etc"], True),
        ("/etc/shared-evil", ["/etc/shared"], ["/etc"], False),
        ("/mnt/data", ["/mnt"], ["/"], True),
        ("/srv/data", ["/mnt"], ["/"], False),
        ("/etc/x", ["/"], ["/etc"], False),
        ("/etc", ["/etc"], ["/etc"], False),
        ("/etc/x", ["/etc"], ["/etc"], True),
        ("/mnt", ["/mnt"], ["/mnt/secret"], False),
    ],
)
def test_the_more_specific_of_safe_and_restricted_wins(
    path: str, safe: list[str], restricted: list[str], allowed: bool
) -> None:
    if allowed:
        check_allowed("path", path, safe=safe, restricted=restricted)
    else:
        with pytest.raises(
            PathNotAllowed, match=f"^path: '{path}' is not accepted: .*restricted directory {restricted[0]}"
        ):
            check_allowed("path", path, safe=safe, restricted=restricted)


def test_a_restricted_directory_behind_a_link_is_restricted(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    with pytest.raises(PathNotAllowed):
        check_allowed("path", str(tmp_path / "real" / "x"), safe=[], restricted=[str(tmp_path / "link")])

# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import FileAccessFailed
from ansible_collections.granary.vmstore.plugins.module_utils._host import domain_ids
from ansible_collections.granary.vmstore.plugins.module_utils._host.domain_ids import COUNT, Allocations, DomainRange, next_start

POOL = [(1000000, 3 * COUNT + 7)]
STARTS = [1000000, 1000000 + COUNT, 1000000 + 2 * COUNT]


@pytest.mark.parametrize(
    ("last", "taken", "start"),
    [
        (0, [], STARTS[0]),
        (0, [(1000000 - 5, 6)], STARTS[1]),
        (0, [(STARTS[1] - 1, 2)], STARTS[2]),
        (STARTS[0], [], STARTS[1]),  # one that was freed comes last
        (STARTS[2], [], STARTS[0]),
        (STARTS[1], [(STARTS[2], 1)], STARTS[0]),
        (0, [(0, 2**32)], None),
    ],
)
def test_the_next_range(last: int, taken: list[tuple[int, int]], start: int | None) -> None:
    assert next_start(last, POOL, taken) == start


def test_a_pool_in_parts() -> None:
    assert next_start(0, [(5, 10), (100, COUNT), (500000, COUNT)], [(100, 1)]) == 500000


def test_what_is_written_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "new" / "domain_ids.json"
    monkeypatch.setattr(domain_ids, "ALLOCATIONS", str(path))
    assert domain_ids.read_allocations() == Allocations()
    wanted = Allocations().with_range("u-1", DomainRange("web", "oneadmin", STARTS[0]))
    domain_ids.write_allocations(wanted)
    assert domain_ids.read_allocations() == wanted
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    assert wanted.without(["u-1"]) == Allocations(STARTS[0], {})
    for text in ("{", "[]", '{"last": 0, "domains": {"u": {}}}'):
        path.write_text(text)
        with pytest.raises(FileAccessFailed, match="holds no ranges of domains"):
            domain_ids.read_allocations()

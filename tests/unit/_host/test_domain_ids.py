# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import FileAccessFailed
from ansible_collections.granary.vmstore.plugins.module_utils._host.ids import domain_ids
from ansible_collections.granary.vmstore.plugins.module_utils._host.ids.domain_ids import (
    COUNT,
    DomainRange,
    choose_start,
)
from refusal import refused

POOL = [(1000000, 3 * COUNT + 7), (5, 10), (9000000, COUNT)]
STARTS = [1000000, 1000000 + COUNT, 1000000 + 2 * COUNT, 9000000]


def test_a_domain_gets_the_same_range_everywhere_unless_somebody_has_it() -> None:
    first = choose_start("uuid", POOL, [])
    assert choose_start("uuid", POOL, [(5, 100)]) == first
    order = []
    while (start := choose_start("uuid", POOL, [(one, 1) for one in order])) is not None:
        order.append(start)
    # The starts follow each other in order, beginning with the first one.
    place = STARTS.index(first)
    assert order == STARTS[place:] + STARTS[:place]
    assert {choose_start(f"uuid-{number}", POOL, []) for number in range(100)} == set(STARTS)


@pytest.mark.parametrize("taken", [(STARTS[3] - 1, 2), (STARTS[3] + COUNT - 1, 1), (STARTS[3] + 5, 1)])
def test_one_id_that_somebody_has_is_enough(taken: tuple[int, int]) -> None:
    assert choose_start("uuid", POOL[2:], [taken]) is None
    assert choose_start("uuid", POOL[2:], [(STARTS[3] - 1, 1), (STARTS[3] + COUNT, 1)]) == STARTS[3]


def test_no_pool() -> None:
    assert choose_start("uuid", [], []) is None


def test_what_is_written_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "new" / "domain_ids.json"
    monkeypatch.setattr(domain_ids, "ALLOCATIONS", str(path))
    assert domain_ids.read_allocations() == {}
    wanted = {"u-1": DomainRange("web", "oneadmin", STARTS[0])}
    domain_ids.write_allocations(wanted)
    assert domain_ids.read_allocations() == wanted
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    for text in ("{", "[]", '{"u": {}}', '{"u": 1}'):
        path.write_text(text)
        with refused(FileAccessFailed, says=f"{path} holds no ranges of domains: *."):
            domain_ids.read_allocations()

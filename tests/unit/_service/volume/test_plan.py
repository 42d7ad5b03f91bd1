# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""The order of a plan and its parts: nothing irreversible happens before the last part is done."""

from __future__ import annotations

from typing import NoReturn

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import NoSpace
from ansible_collections.granary.vmstore.plugins.module_utils._core.plan import Action
from ansible_collections.granary.vmstore.plugins.module_utils._service.domain_restart import RestartPlan
from ansible_collections.granary.vmstore.plugins.module_utils._service.volume.plan import VolumesPlan
from refusal import refused


def action(name: str, done: list[str]) -> Action:
    def finish() -> None:
        done.append(f"finish {name}")

    return Action(
        name,
        "x",
        None,
        None,
        lambda: done.append(f"record {name}"),
        lambda: done.append(f"undo {name}"),
        finish=finish,
    )


@pytest.mark.parametrize("fails", [False, True])
def test_a_part_that_fails(fails: bool) -> None:
    done: list[str] = []

    def full() -> NoReturn:
        raise NoSpace("full")

    first = RestartPlan(actions=[action("part", done)])
    second = RestartPlan(actions=[Action("other", "x", None, None, full)] if fails else [])
    plan = VolumesPlan(actions=[action("own", done)], parts=[lambda: first, lambda: second])
    if fails:
        with refused(NoSpace):
            plan.run()
        assert done == ["record own", "record part", "finish part", "undo part", "undo own"]
    else:
        plan.run()
        assert done == ["record own", "record part", "finish part", "finish own"]
        assert [one.name for one in plan.actions] == ["own", "part"]

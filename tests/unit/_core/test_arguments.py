# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core.arguments import refuse_truth_values
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import InvalidInput
from ansible_collections.granary.vmstore.plugins.module_utils._model.idmap import ID_MAP_OPTION
from refusal import refused

OPTIONS = {
    "start": {"type": "int"},
    "clusters": {"type": "list", "elements": "int"},
    "replace": {"type": "bool"},
    "uid_map": ID_MAP_OPTION,
}


@pytest.mark.parametrize(
    ("values", "option", "value"),
    [
        ({"start": True}, "start", True),
        ({"clusters": [0, False]}, "clusters", False),
        ({"uid_map": [{"start": 0, "target": True, "count": 1}]}, "uid_map.target", True),
    ],
)
def test_a_truth_value_is_no_number(values: dict, option: str, value: bool) -> None:
    with refused(InvalidInput, says=f"{option}: {value} is not accepted: a whole number is expected."):
        refuse_truth_values(OPTIONS, values)


def test_other_values_are_left_to_ansible() -> None:
    refuse_truth_values(
        OPTIONS, {"start": 1, "clusters": None, "replace": True, "uid_map": [{"start": 0, "target": 1, "count": 1}]}
    )

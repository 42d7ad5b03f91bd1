# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core.arguments import refuse_truth_values
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import InvalidInput
from ansible_collections.granary.vmstore.plugins.module_utils._model.idmap import ID_MAP_OPTION

OPTIONS = {
    "start": {"type": "int"},
    "clusters": {"type": "list", "elements": "int"},
    "replace": {"type": "bool"},
    "uid_map": ID_MAP_OPTION,
}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"start": True}, "start: True"),
        ({"clusters": [0, False]}, "clusters: False"),
        ({"uid_map": [{"start": 0, "target": True, "count": 1}]}, "uid_map.target: True"),
    ],
)
def test_a_truth_value_is_no_number(values: dict, message: str) -> None:
    with pytest.raises(InvalidInput, match=f"^{message} is not accepted: a whole number is expected"):
        refuse_truth_values(OPTIONS, values)


def test_other_values_are_left_to_ansible() -> None:
    refuse_truth_values(
        OPTIONS, {"start": 1, "clusters": None, "replace": True, "uid_map": [{"start": 0, "target": 1, "count": 1}]}
    )

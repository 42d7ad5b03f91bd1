# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""The Ansible face, by ansible-core itself: what a module answers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.granary.vmstore.plugins.module_utils._core.arguments import ArgumentSpec
from ansible_collections.granary.vmstore.plugins.module_utils._service.module import run_info_module, run_module
from ansible_collections.granary.vmstore.plugins.module_utils._service.subid import SUBID_SPEC, SubidService, SubidWish

Answer = Callable[..., dict[str, Any]]


@pytest.fixture
def subid(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Answer:
    def run(**arguments: object) -> dict[str, Any]:
        with patch_module_args({"user": "nobody-here", **arguments}), pytest.raises(SystemExit):
            run_module(SUBID_SPEC, lambda options: SubidService(SubidWish(**options), str(tmp_path)))
        return json.loads(capsys.readouterr().out)

    return run


def test_check_run_and_run_again(subid: Answer, tmp_path: Path) -> None:
    foretold = subid(_ansible_check_mode=True, _ansible_diff=True)
    assert not (tmp_path / "subuid").exists()
    done = subid(_ansible_diff=True)
    assert (foretold["actions"], foretold["diff"], foretold["changed"]) == (done["actions"], done["diff"], True)
    assert (tmp_path / "subuid").read_text() == "nobody-here:100000:65536\n"
    again = subid()
    assert (again["changed"], again["actions"], "diff" in again) == (False, [], False)


def test_a_truth_value_is_no_number(subid: Answer, tmp_path: Path) -> None:
    answer = subid(start=True)
    assert answer["failed"]
    assert answer["msg"] == "start: True is not accepted: a whole number is expected."
    assert list(tmp_path.iterdir()) == []


def test_a_defect_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    with patch_module_args({}), pytest.raises(SystemExit):
        run_info_module(ArgumentSpec({}), lambda options: {"x": options["nothing"]})
    answer = json.loads(capsys.readouterr().out)
    assert answer["failed"]
    assert answer["msg"] == "A defect in granary.vmstore: KeyError: 'nothing'."

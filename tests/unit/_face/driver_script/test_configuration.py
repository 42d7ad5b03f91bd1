# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import subprocess

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import InvalidInput
from ansible_collections.granary.vmstore.plugins.module_utils._face.driver_script.configuration import parse_assignments
from refusal import refused

VALUES = [
    "",
    "ext4,xfs",
    '""',
    '"ext4, xfs"',
    "'a b'",
    r"a\ b",
    r'"a\"b"',
    "a'b c'd",
    '"a"b',
    "-F",
    "x=y",
    "ä",
    '"ä"',
    "x # a comment",
    "  ",
    "%+,-./:=@_",
]


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("before", ["", "  ", "export ", "\texport   "])
def test_values_are_a_shells(before: str, value: str) -> None:
    text = f"# A=comment\n{before}A={value}\n"
    shells = subprocess.run(["sh", "-c", f'{text}printf %s "$A"'], capture_output=True, text=True, check=True).stdout
    assert parse_assignments("x.conf", text) == {"A": shells}


@pytest.mark.parametrize("line", ["A =x", "9A=x", "A-B=x", "export A B=x", "unset A=x", "=x", "#A=x", "A", "ä=x"])
def test_other_lines_assign_nothing(line: str) -> None:
    assert parse_assignments("x.conf", line) == {}


@pytest.mark.parametrize("value", ["'", '"', '"a', "a'b", '"a\\"'])
def test_a_quotation_without_end_is_refused(value: str) -> None:
    with refused(
        InvalidInput, says=f"x.conf: {value!r} is not accepted: a quotation that ends on its line is expected."
    ):
        parse_assignments("x.conf", f"A={value}")

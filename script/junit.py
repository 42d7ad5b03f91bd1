# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""Count the test cases of JUnit XML files.

Usage: junit.py FILE...

Prints `<passed> <failed>`. A skipped test counts as neither; a case with a failure or an error counts once, as failed.
"""

from __future__ import annotations

import sys
from xml.etree import ElementTree


def count(files: list[str]) -> tuple[int, int]:
    cases = [case for file in files for case in ElementTree.parse(file).iter("testcase")]
    failed = sum(1 for case in cases if case.find("failure") is not None or case.find("error") is not None)
    skipped = sum(1 for case in cases if case.find("skipped") is not None)
    return len(cases) - failed - skipped, failed


if __name__ == "__main__":
    print(*count(sys.argv[1:]))

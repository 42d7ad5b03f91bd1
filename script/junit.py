# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""Count the test cases of JUnit XML files, or list the slowest.

Usage: junit.py [--slowest NUMBER] FILE...

Prints `<passed> <failed>`. A skipped test counts as neither; a case with a failure or an error counts once, as failed.
With --slowest the program prints a table instead: the seconds of each of the slowest cases, with its fixtures, and its
name.
"""

from __future__ import annotations

import argparse
from xml.etree import ElementTree


def read_cases(files: list[str]) -> list[ElementTree.Element]:
    return [case for file in files for case in ElementTree.parse(file).iter("testcase")]


def count(cases: list[ElementTree.Element]) -> tuple[int, int]:
    """Return the numbers of passed and of failed cases."""
    failed = sum(1 for case in cases if case.find("failure") is not None or case.find("error") is not None)
    skipped = sum(1 for case in cases if case.find("skipped") is not None)
    return len(cases) - failed - skipped, failed


def tabulate_slowest(cases: list[ElementTree.Element], number: int) -> str:
    """Return a table of the *number* slowest cases."""
    ordered = sorted(cases, key=lambda case: -float(case.get("time") or 0))[:number]
    rows = [f"{float(case.get('time') or 0):8.1f}  {case.get('classname')}::{case.get('name')}" for case in ordered]
    return "\n".join(["", " seconds  the slowest tests", *rows])


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--slowest", type=int)
    parser.add_argument("files", nargs="+")
    given = parser.parse_args()
    found = read_cases(given.files)
    print(tabulate_slowest(found, given.slowest) if given.slowest else " ".join(map(str, count(found))))

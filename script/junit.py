# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""Count the test cases of JUnit XML files, or list the slowest and those that failed.

Usage: junit.py [--slowest NUMBER | --failed] FILE...

Prints `<passed> <failed>`. A skipped test counts as neither; a case with a failure or an error counts once, as failed.
With --slowest the program prints a table instead: the seconds of each of the slowest cases, with its fixtures, and its
name. With --failed it prints the name of each failed case and the last lines of its report.
"""

from __future__ import annotations

import argparse
from xml.etree import ElementTree

#: The last lines of a short report have the place, the statement, and the error.
LINES_OF_A_FAILURE = 15


def read_cases(files: list[str]) -> list[ElementTree.Element]:
    return [case for file in files for case in ElementTree.parse(file).iter("testcase")]


def find_fault(case: ElementTree.Element) -> ElementTree.Element | None:
    """Return the failure or the error of a case, or None."""
    failure = case.find("failure")
    return case.find("error") if failure is None else failure


def count(cases: list[ElementTree.Element]) -> tuple[int, int]:
    """Return the numbers of passed and of failed cases."""
    failed = sum(1 for case in cases if find_fault(case) is not None)
    skipped = sum(1 for case in cases if case.find("skipped") is not None)
    return len(cases) - failed - skipped, failed


def tabulate_slowest(cases: list[ElementTree.Element], number: int) -> str:
    """Return a table of the *number* slowest cases."""
    ordered = sorted(cases, key=lambda case: -float(case.get("time") or 0))[:number]
    rows = [f"{float(case.get('time') or 0):8.1f}  {case.get('classname')}::{case.get('name')}" for case in ordered]
    return "\n".join(["", " seconds  the slowest tests", *rows])


def report_failed(cases: list[ElementTree.Element]) -> str:
    """Return the names of the failed cases, each with the last lines of its report; nothing if none failed."""
    lines = []
    for case in cases:
        fault = find_fault(case)
        if fault is not None:
            lines += ["", f"FAILED: {case.get('classname')}::{case.get('name')}"]
            lines += [f"    {line}" for line in (fault.text or "").splitlines()[-LINES_OF_A_FAILURE:]]
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--slowest", type=int)
    parser.add_argument("--failed", action="store_true")
    parser.add_argument("files", nargs="+")
    given = parser.parse_args()
    found = read_cases(given.files)
    if given.failed:
        print(report_failed(found))
    else:
        print(tabulate_slowest(found, given.slowest) if given.slowest else " ".join(map(str, count(found))))

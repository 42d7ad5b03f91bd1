# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""The collection's own files agree with each other."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
MODULES = sorted(path.stem for path in (ROOT / "plugins" / "modules").glob("*.py") if path.stem != "__init__")
# Data, texts and files whose format has no comments.
UNMARKED_SUFFIXES = {".json", ".md", ".rst", ".txt", ".xml"}
# The license itself, and what antsibull-changelog writes.
UNMARKED_NAMES = {"COPYING", "changelog.yaml"}


def tracked() -> list[Path]:
    names = subprocess.run(
        ["git", "-C", ROOT, "ls-files", "-z"], capture_output=True, check=True, text=True
    ).stdout.split("\0")
    return [ROOT / name for name in names if name and (ROOT / name).is_file()]


def test_the_action_group_lists_every_module() -> None:
    runtime = yaml.safe_load((ROOT / "meta" / "runtime.yml").read_text())
    assert runtime["action_groups"] == {"vmstore": MODULES}


@pytest.mark.parametrize("module", MODULES)
def test_a_module_documents_the_action_group(module: str) -> None:
    text = (ROOT / "plugins" / "modules" / f"{module}.py").read_text()
    assert "  - granary.vmstore._attributes.actiongroup_vmstore\n" in text


def test_sanity_needs_no_exceptions() -> None:
    assert sorted((ROOT / "tests" / "sanity").glob("ignore-*.txt")) == []


def test_every_file_names_its_license() -> None:
    marker = "SPDX-License-Identifier" + ": GPL-3.0-or-later"
    assert [
        str(path.relative_to(ROOT))
        for path in tracked()
        if path.suffix not in UNMARKED_SUFFIXES
        and path.name not in UNMARKED_NAMES
        and path.stat().st_size
        and marker not in path.read_text(errors="replace")
    ] == []

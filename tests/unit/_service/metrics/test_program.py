# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""The installation of the program, and the way back."""

from __future__ import annotations

import os
import subprocess
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import Conflict, PathNotAllowed
from ansible_collections.granary.vmstore.plugins.module_utils._core.plan import Plan
from ansible_collections.granary.vmstore.plugins.module_utils._face import downward_metrics
from ansible_collections.granary.vmstore.plugins.module_utils._remote.engine import engine_sources, path_in_engine
from ansible_collections.granary.vmstore.plugins.module_utils._service.metrics.program import DownwardMetricsService
from refusal import refused

ENTRY = downward_metrics.__name__
#: A small engine, which is installed and compiled quickly.
SOURCES = types.MappingProxyType(
    {"__init__.py": "", "_face/__init__.py": "", "_face/downward_metrics.py": "def launch():\n    print(1)\n"}
)


@pytest.fixture
def options(tmp_path: Path) -> dict[str, Any]:
    return {
        "program": str(tmp_path / "libexec" / "program"),
        "library": str(tmp_path / "library"),
        "python": "/usr/bin/python3",
        "state": "present",
    }


def service(options: dict[str, Any], sources: Mapping[str, str] = SOURCES, **changes: str) -> DownwardMetricsService:
    return DownwardMetricsService({**options, **changes}, sources, path_in_engine(ENTRY))


def names(plan: Plan) -> list[str]:
    return [action.name for action in plan.actions]


def test_the_whole_engine_runs(options: dict[str, Any]) -> None:
    assert names(service(options, engine_sources(ENTRY)).dry_run()) == [
        "install engine",
        "use engine",
        "install program",
    ]
    assert not os.path.exists(options["library"])
    plan = service(options, engine_sources(ENTRY)).converge()
    assert os.path.isdir(str(plan.result["engine"]))
    assert names(service(options, engine_sources(ENTRY)).converge()) == []
    help_text = subprocess.run([options["program"], "--help"], stdout=subprocess.PIPE, text=True, check=True).stdout
    assert "--host-name" in help_text
    assert oct(os.stat(options["program"]).st_mode) == "0o100755"
    # The loaded modules are those of the engine.
    done = subprocess.run([options["program"], "--uri", "x"], stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr.startswith("uri: 'x'")) == (1, True)


def test_an_older_program_is_replaced(options: dict[str, Any]) -> None:
    service(options).converge()
    newer = {**SOURCES, "_face/downward_metrics.py": "def launch():\n    print(2)\n"}
    assert names(service(options, newer).converge()) == ["install engine", "use engine"]
    assert subprocess.run([options["program"]], stdout=subprocess.PIPE, check=True).stdout == b"2\n"
    program = Path(options["program"])
    program.write_text(program.read_text() + "# older\n")
    program.chmod(0o600)
    assert names(service(options, newer).converge()) == ["install program"]
    assert subprocess.run([options["program"]], stdout=subprocess.PIPE, check=True).stdout == b"2\n"


def test_the_way_back_leaves_foreign_files(options: dict[str, Any]) -> None:
    service(options).converge()
    library = Path(options["library"])
    (library / "notes").write_text("an admin's\n")
    assert names(service(options, state="absent").dry_run()) == ["remove program", "remove engines"]
    assert names(service(options, state="absent").converge()) == ["remove program", "remove engines"]
    assert (os.path.exists(options["program"]), os.listdir(library)) == (False, ["notes"])
    assert names(service(options, state="absent").converge()) == []
    (library / "notes").unlink()
    service(options).converge()
    service(options, state="absent").converge()
    assert not library.exists()


@pytest.mark.parametrize("state", ["present", "absent"])
def test_another_program_stays(options: dict[str, Any], state: str) -> None:
    program = Path(options["program"])
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    with refused(
        Conflict,
        says=f"{program} is another program, which this module doesn't replace. Give another path."
        if state == "present"
        else None,
        names=[program],
    ):
        service(options, state=state).converge()
    assert program.read_text() == "#!/bin/sh\n"
    assert not os.path.exists(options["library"])


@pytest.mark.parametrize("name", ["library", "libexec"])
def test_only_root_may_change_what_root_runs(options: dict[str, Any], tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name).chmod(0o777)
    with refused(PathNotAllowed, option="library" if name == "library" else "program"):
        service(options).converge()
    assert list((tmp_path / name).iterdir()) == []

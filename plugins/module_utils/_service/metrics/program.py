# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The program of downward metrics, installed on a hypervisor: the engine, and a script that starts it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from typing import Any

from ..._core.arguments import ArgumentSpec
from ..._core.directory import open_file_at, opened_parent
from ..._core.errors import Conflict, os_errors
from ..._core.files import remove_durably, replace_file
from ..._core.paths import absolute
from ..._core.plan import Action, Plan
from ..._host.made_directory import open_or_make, require_only_root
from ..engine_library import EngineLibrary, launcher
from ..service import Service

DOWNWARD_METRICS_SPEC = ArgumentSpec(
    {
        "program": {"type": "path", "default": "/usr/local/libexec/granary-downward-metrics"},
        "library": {"type": "path", "default": "/usr/local/lib/granary-downward-metrics"},
        "python": {"type": "path", "default": "/usr/bin/python3"},
        "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    }
)

#: A line of the script of any version, by which it is recognized.
MARK = "# Installed by granary.vmstore.downward_metrics."

MODE = 0o755

#: Upper bound of a script in bytes. Only its beginning is compared.
LONGEST_SCRIPT = 65536

#: The reason for the rule that only root can change the directories.
REASON = "root runs what is in there"


class DownwardMetricsService(Service):
    """Plan the engine in its library, and the script.

    :arg sources: the engine's files, by their paths in it.
    :arg entry: the name of the module in the engine that the script runs.
    """

    def __init__(self, options: Mapping[str, Any], sources: Mapping[str, str], entry: str) -> None:
        self.program = absolute("program", options["program"])
        self.library = EngineLibrary(options["library"], options["python"], sources, "the service")
        self.script = launcher(self.library.python, self.library.library, entry, MARK).encode()
        self.is_wanted = options["state"] == "present"

    def plan(self) -> Plan:
        with os_errors(f"look at the directory of {self.program}"):
            require_only_root("program", os.path.dirname(self.program), REASON)
            script = self._read()
        if script is not None and MARK.encode() not in script:
            raise Conflict(f"{self.program} is another program, which this module doesn't replace. Give another path.")
        if self.is_wanted:
            plan = Plan({"engine": self.library.engine})
            self.library.plan(plan)
            if script != self.script:
                before = None if script is None else {"mark": MARK}
                plan.actions.append(Action("install program", self.program, before, {"mark": MARK}, self._install))
            return plan
        plan = Plan()
        if script is not None:
            plan.actions.append(Action("remove program", self.program, {"mark": MARK}, None, self._remove))
        self.library.plan_removal(plan)
        return plan

    def _read(self) -> bytes | None:
        """Return the installed script; ``None`` if it is missing."""
        with contextlib.suppress(FileNotFoundError), opened_parent(self.program) as (directory, name):
            with os.fdopen(open_file_at(directory, name), "rb") as file:
                return file.read(LONGEST_SCRIPT)
        return None

    def _install(self) -> None:
        with os_errors(f"install {self.program}"):
            directory = open_or_make(os.path.dirname(self.program), 0o755)
            try:
                replace_file(directory, os.path.basename(self.program), self.script, MODE, keeps_attributes=False)
            finally:
                os.close(directory)

    def _remove(self) -> None:
        remove_durably(self.program)


__all__ = ["DOWNWARD_METRICS_SPEC", "DownwardMetricsService"]

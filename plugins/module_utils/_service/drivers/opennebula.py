# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The storage engine as datastore drivers and transfer drivers of a front-end (spec: storage-driver, "Datastore Drivers
Structure", "TM Drivers Structure").

The scripts in the directory of remotes, which belongs to the front-end's user, only start the engine of
:mod:`..engine_library`.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Mapping, Sequence
from typing import Any

from ..._core.arguments import ArgumentSpec
from ..._core.directory import descriptor_path, opened_directory
from ..._core.errors import NotFound, os_errors
from ..._core.paths import absolute
from ..._core.plan import Action, Plan
from ..._driver.datastore.registry import DATASTORE_DRIVERS
from ..._driver.info import CONTRACT_ACTIONS
from ..._driver.transfer.registry import MONITORED_BY_HOSTS, TRANSFER_DRIVERS, transfer_scripts
from ..._host.made_directory import open_or_make, require_only_root
from .. import engine_library
from ..engine_library import EngineLibrary
from ..service import Service
from .helper_functions import plan_helper_functions
from .installed_script import is_installed, put_script
from .kept_scripts import MARK, KeptScripts, find_older
from .monitor_script import MONITOR_SCRIPT, monitor_script


def _names(drivers: Sequence[str]) -> dict[str, Any]:
    return {"type": "list", "elements": "str", "choices": list(drivers), "default": list(drivers)}


OPENNEBULA_DRIVERS_SPEC = ArgumentSpec(
    {
        "remotes": {"type": "path", "default": "/var/lib/one/remotes"},
        "library": {"type": "path", "default": "/usr/local/lib/granary-vmstore"},
        "kept": {"type": "path", "default": "/var/lib/granary-vmstore/kept"},
        "python": {"type": "path", "default": "/usr/bin/python3"},
        "names": _names(DATASTORE_DRIVERS),
        "tm_names": _names(TRANSFER_DRIVERS),
    }
)

SCRIPT_MODE = 0o755

#: Directories by which the remotes of a front-end are recognized.
REMOTES = ("datastore", "tm")


class OpennebulaDriversService(Service):
    """Plan the engine in its library, and the scripts of each driver.

    :arg sources: the engine's files, by their paths in it.
    """

    def __init__(self, options: Mapping[str, Any], sources: Mapping[str, str]) -> None:
        self.remotes = absolute("remotes", options["remotes"])
        self.kept = absolute("kept", options["kept"])
        self.library = EngineLibrary(options["library"], options["python"], sources, "the drivers")
        script = launcher(self.library.python, self.library.library).encode()
        #: The scripts of each driver by name.
        self.drivers = {
            **{f"datastore/{name}": dict.fromkeys(CONTRACT_ACTIONS, script) for name in options["names"]},
            **{f"tm/{name}": dict.fromkeys(transfer_scripts(name), script) for name in options["tm_names"]},
        }
        for name in MONITORED_BY_HOSTS:
            self.drivers.get(f"tm/{name}", {})[MONITOR_SCRIPT] = monitor_script(self.library.sources)

    def plan(self) -> Plan:
        plan = Plan({"engine": self.library.engine})
        self._check_remotes()
        self.library.plan(plan)
        for name, scripts in self.drivers.items():
            self._plan_driver(plan, os.path.join(self.remotes, name), scripts)
        plan_helper_functions(plan, self.remotes, self.kept)
        return plan

    def _check_remotes(self) -> None:
        """Refuse a directory that isn't the directory of remotes of a front-end.

        :raises NotFound: the directory, or a part of it, is missing.
        :raises PathNotAllowed: the path leads through links of other users.
        """
        for path in (self.remotes, *(os.path.join(self.remotes, name) for name in REMOTES)):
            with os_errors(f"look at the directory {path}"):
                try:
                    with opened_directory(path, option="remotes"):
                        pass
                except (FileNotFoundError, NotADirectoryError) as error:
                    missing = f"{path} is not a directory" if path != self.remotes else "there is no such directory"
                    raise NotFound(
                        f"remotes: {self.remotes!r} is not the directory of remotes of a front-end on this host: "
                        f"{missing}."
                    ) from error

    def _plan_driver(self, plan: Plan, path: str, scripts: Mapping[str, bytes]) -> None:
        """Plan the scripts of one driver.

        :arg path: the directory of the driver.
        :arg scripts: the scripts by name.
        """
        found: dict[str, bool] = {}
        older: list[str] = []
        with (
            os_errors(f"look at the directory {path}"),
            contextlib.suppress(FileNotFoundError),
            opened_directory(path, option="remotes") as descriptor,
        ):
            there = os.listdir(descriptor_path(descriptor))
            found = {
                action: is_installed(descriptor, action, script, SCRIPT_MODE)
                for action, script in scripts.items()
                if action in there
            }
            older = find_older(there, [*scripts])
        wrong = [action for action in scripts if not found.get(action)]
        kept = KeptScripts(self.kept, path)
        if older or any(action in found for action in wrong):
            with os_errors(f"look at the directory {self.kept}"):
                require_only_root("kept", self.kept, "the front-end's own scripts are restored from there")
        if older:
            record = functools.partial(self._move_kept, path, kept, older)
            plan.actions.append(
                Action("move kept scripts", path, {"kept": older}, {"directory": kept.directory}, record)
            )
        if wrong:
            before = [action for action in wrong if action in found]
            record = functools.partial(self._install_driver, path, kept, scripts)
            plan.actions.append(
                Action("install driver", path, {"replaced": before} if before else None, {"installed": wrong}, record)
            )

    @staticmethod
    def _move_kept(path: str, kept: KeptScripts, names: list[str]) -> None:
        with os_errors(f"move scripts out of {path}"), opened_directory(path, option="remotes") as descriptor:
            kept.move(descriptor, names)

    @staticmethod
    def _install_driver(path: str, kept: KeptScripts, scripts: Mapping[str, bytes]) -> None:
        """Install the scripts of one driver.

        The scripts belong to the owner of their directory. A different script in their place is kept elsewhere.
        """
        with os_errors(f"install the drivers in {path}"):
            descriptor = open_or_make(path, 0o755)
            try:
                for action, script in scripts.items():
                    if not is_installed(descriptor, action, script, SCRIPT_MODE):
                        kept.keep(descriptor, action)
                        put_script(descriptor, action, script, SCRIPT_MODE)
            finally:
                os.close(descriptor)


def launcher(python: str, library: str) -> str:
    """Return the text of a script."""
    mark = f"{MARK} The name of this file is the action, that of its directory the driver."
    return engine_library.launcher(python, library, "_face.driver_script.entry", mark)


__all__ = ["OPENNEBULA_DRIVERS_SPEC", "OpennebulaDriversService", "launcher"]

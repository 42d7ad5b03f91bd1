# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The storage engine as datastore drivers and transfer drivers of a front-end (spec: storage-driver, "Datastore Drivers
Structure", "TM Drivers Structure").

The engine is in a directory that is named after its content. The link ``current`` leads to the engine in use. The
scripts in the directory of remotes, which belongs to the front-end's user, only start the engine.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from typing import Any

from ..._core.arguments import ArgumentSpec
from ..._core.command import run
from ..._core.directory import descriptor_path, opened_directory, sync_opened
from ..._core.errors import InvalidInput, NotFound, os_errors
from ..._core.files import write_atomic
from ..._core.paths import absolute
from ..._core.plan import Action, Plan
from ..._driver.datastore.registry import DATASTORE_DRIVERS
from ..._driver.info import CONTRACT_ACTIONS
from ..._driver.transfer.registry import MONITORED_BY_HOSTS, TRANSFER_DRIVERS, transfer_scripts
from ..._host.made_directory import open_or_make, require_only_root
from ..._remote.engine import ENGINE
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

#: The link to the engine in use.
CURRENT = "current"

SCRIPT_MODE = 0o755

#: Directories by which the remotes of a front-end are recognized.
REMOTES = ("datastore", "tm")

LAUNCHER = """\
#!{python} -ISXutf8
# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
{mark} The name of this file is the action, that of its directory the driver.
import os
import sys

# Resolved, so that an action that is under way when another engine is installed goes on with its own.
sys.path.insert(0, os.path.realpath({current}))
from granary_vmstore._face.driver_script.entry import launch

launch()
"""

#: A program that prints the version, and a word that changes when the engine has to be compiled again.
ASK_PYTHON = "import sys; print(*sys.version_info[:2], sys.implementation.cache_tag)"


class OpennebulaDriversService(Service):
    """Plan the engine in its library, and the scripts of each driver.

    :arg sources: the engine's files, by their paths in it.
    """

    def __init__(self, options: Mapping[str, Any], sources: Mapping[str, str]) -> None:
        self.remotes = absolute("remotes", options["remotes"])
        self.library = absolute("library", options["library"])
        self.kept = absolute("kept", options["kept"])
        python = absolute("python", options["python"])
        if re.search(r"\s", python):
            raise InvalidInput("python", python, "a path without blanks is expected")
        self.python = python
        self.sources = dict(sources)
        self.version = self._version()
        script = launcher(python, self.library).encode()
        #: The scripts of each driver by name.
        self.drivers = {
            **{f"datastore/{name}": dict.fromkeys(CONTRACT_ACTIONS, script) for name in options["names"]},
            **{f"tm/{name}": dict.fromkeys(transfer_scripts(name), script) for name in options["tm_names"]},
        }
        for name in MONITORED_BY_HOSTS:
            self.drivers.get(f"tm/{name}", {})[MONITOR_SCRIPT] = monitor_script(self.sources)

    def _version(self) -> str:
        """Return the name of the engine's directory."""
        answer = run([self.python, "-I", "-c", ASK_PYTHON]).stdout
        match = re.fullmatch(r"([0-9]+) ([0-9]+) (\S+)\n", answer)
        if match is None or (int(match[1]), int(match[2])) < (3, 9):
            raise InvalidInput(
                "python", self.python, f"Python 3.9 or newer is expected, and it reports {answer.strip()!r}"
            )
        return hashlib.sha256(json.dumps([self.sources, match[3]], sort_keys=True).encode()).hexdigest()

    def plan(self) -> Plan:
        plan = Plan({"engine": self._in_library(self.version)})
        self._check_remotes()
        self._plan_engine(plan)
        for name, scripts in self.drivers.items():
            self._plan_driver(plan, os.path.join(self.remotes, name), scripts)
        plan_helper_functions(plan, self.remotes, self.kept)
        return plan

    def _in_library(self, name: str) -> str:
        return os.path.join(self.library, name)

    # The engine

    def _plan_engine(self, plan: Plan) -> None:
        current: str | None = None
        names: list[str] = []
        with os_errors(f"look at the directory {self.library}"), contextlib.suppress(FileNotFoundError):
            require_only_root("library", self.library, "the drivers run what is in there")
            names = os.listdir(self.library)
            current = os.readlink(self._in_library(CURRENT))
        if current == self.version:
            return
        plan.actions.append(
            Action(
                "install engine", self._in_library(self.version), None, {"files": sorted(self.sources)}, self._install
            )
        )
        plan.actions.append(Action("use engine", self._in_library(CURRENT), current, self.version, self._use))
        # The previous engine stays, because running actions may use it.
        kept = (current, self.version)
        for name in sorted(names):
            path = self._in_library(name)
            if name not in kept and not name.startswith(".") and not os.path.islink(path) and os.path.isdir(path):
                plan.actions.append(
                    Action("remove older engine", path, name, None, functools.partial(self._remove, path))
                )

    def _install(self) -> None:
        with os_errors(f"install the engine in {self.library}"):
            os.close(open_or_make(self.library, 0o755))
            require_only_root("library", self.library, "the drivers run what is in there")
            for name, source in self.sources.items():
                path = self._in_library(f"{self.version}/{ENGINE}/{name}")
                os.close(open_or_make(os.path.dirname(path), 0o755))
                write_atomic(path, source.encode())
        # The users of the drivers may not write there, and would compile the engine again at each start. The name of
        # the directory contains the hash of its content, so that no comparison with the sources is needed: a backup may
        # not restore their time stamps.
        compiling = ["-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash"]
        run([self.python, "-I", *compiling, self._in_library(self.version)], timeout=300)

    def _use(self) -> None:
        temporary = self._in_library(f".{CURRENT}.{os.urandom(4).hex()}")
        with os_errors(f"make the link {self._in_library(CURRENT)}"):
            os.symlink(self.version, temporary)
            try:
                os.rename(temporary, self._in_library(CURRENT))
            except OSError:
                os.unlink(temporary)
                raise
            with opened_directory(self.library, option="library") as opened:
                sync_opened(opened)

    @staticmethod
    def _remove(path: str) -> None:
        with os_errors(f"remove the directory {path}"):
            shutil.rmtree(path)

    # The drivers

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
    return LAUNCHER.format(python=python, mark=MARK, current=json.dumps(os.path.join(library, CURRENT)))


__all__ = ["OPENNEBULA_DRIVERS_SPEC", "OpennebulaDriversService", "launcher"]

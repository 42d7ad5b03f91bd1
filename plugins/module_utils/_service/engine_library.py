# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The storage engine in a directory of this host, for programs that other programs start.

The engine is in a directory that is named after its content. The link ``current`` leads to the engine in use.
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

from .._core.command import run
from .._core.directory import opened_directory, sync_opened
from .._core.errors import InvalidInput, os_errors
from .._core.files import write_atomic
from .._core.paths import absolute
from .._core.plan import Action, Plan
from .._host.made_directory import open_or_make, require_only_root
from .._remote.engine import ENGINE

#: The link to the engine in use.
CURRENT = "current"

#: The names in the directory that this class creates.
INSTALLED = rf"[0-9a-f]{{64}}|{CURRENT}"

#: A program that prints the version, and a word that changes when the engine has to be compiled again.
ASK_PYTHON = "import sys; print(*sys.version_info[:2], sys.implementation.cache_tag)"

LAUNCHER = """\
#!{python} -ISXutf8
# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
{mark}
import os
import sys

# Resolved, so that an action that is under way when another engine is installed goes on with its own.
sys.path.insert(0, os.path.realpath({current}))
from {engine}.{entry} import launch

launch()
"""


class EngineLibrary:
    """The engine in the directory ``library``.

    :arg python: the interpreter of the programs.
    :arg sources: the engine's files, by their paths in it.
    :arg users: the programs that run the engine, as the subject of a sentence.
    :raises InvalidInput: the interpreter can't run the engine.
    """

    def __init__(self, library: str, python: str, sources: Mapping[str, str], users: str) -> None:
        self.library = absolute("library", library)
        self.python = absolute("python", python)
        if re.search(r"\s", self.python):
            raise InvalidInput("python", self.python, "a path without blanks is expected")
        self.sources = dict(sources)
        self.version = self._version()
        #: The directory of the engine.
        self.engine = self._in_library(self.version)
        self._reason = f"{users} run what is in there"

    def _version(self) -> str:
        """Return the name of the engine's directory."""
        answer = run([self.python, "-I", "-c", ASK_PYTHON]).stdout
        match = re.fullmatch(r"([0-9]+) ([0-9]+) (\S+)\n", answer)
        if match is None or (int(match[1]), int(match[2])) < (3, 9):
            raise InvalidInput(
                "python", self.python, f"Python 3.9 or newer is expected, and it reports {answer.strip()!r}"
            )
        return hashlib.sha256(json.dumps([self.sources, match[3]], sort_keys=True).encode()).hexdigest()

    def _in_library(self, name: str) -> str:
        return os.path.join(self.library, name)

    def plan(self, plan: Plan) -> None:
        """Plan the engine, and the removal of engines that are older than the previous one.

        The previous engine stays, because running actions may use it.
        """
        current: str | None = None
        names: list[str] = []
        with os_errors(f"look at the directory {self.library}"), contextlib.suppress(FileNotFoundError):
            require_only_root("library", self.library, self._reason)
            names = os.listdir(self.library)
            current = os.readlink(self._in_library(CURRENT))
        if current == self.version:
            return
        plan.actions.append(Action("install engine", self.engine, None, {"files": sorted(self.sources)}, self._install))
        plan.actions.append(Action("use engine", self._in_library(CURRENT), current, self.version, self._use))
        kept = (current, self.version)
        for name in sorted(names):
            path = self._in_library(name)
            if name not in kept and not name.startswith(".") and not os.path.islink(path) and os.path.isdir(path):
                remove = functools.partial(_remove, path)
                plan.actions.append(Action("remove older engine", path, name, None, remove))

    def _install(self) -> None:
        with os_errors(f"install the engine in {self.library}"):
            os.close(open_or_make(self.library, 0o755))
            require_only_root("library", self.library, self._reason)
            for name, source in self.sources.items():
                path = self._in_library(f"{self.version}/{ENGINE}/{name}")
                os.close(open_or_make(os.path.dirname(path), 0o755))
                write_atomic(path, source.encode())
        # The users of the programs may not write there, and would compile the engine again at each start. The name of
        # the directory contains the hash of its content, so that no comparison with the sources is needed: a backup may
        # not restore their time stamps.
        compiling = ["-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash"]
        run([self.python, "-I", *compiling, self.engine], timeout=300)

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

    def plan_removal(self, plan: Plan) -> None:
        """Plan the removal of all engines. Foreign files in the directory stay."""
        names: list[str] = []
        with os_errors(f"look at the directory {self.library}"), contextlib.suppress(FileNotFoundError):
            require_only_root("library", self.library, self._reason)
            names = sorted(name for name in os.listdir(self.library) if re.fullmatch(INSTALLED, name))
        if names:
            remove = functools.partial(self._remove_engines, names)
            plan.actions.append(Action("remove engines", self.library, names, None, remove))

    def _remove_engines(self, names: Sequence[str]) -> None:
        with os_errors(f"remove the engines in {self.library}"):
            # The link is the last, so that a removal that was interrupted is repeated.
            for name in names:
                if name != CURRENT:
                    _remove(self._in_library(name))
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._in_library(CURRENT))
            with contextlib.suppress(OSError):
                os.rmdir(self.library)


def launcher(python: str, library: str, entry: str, mark: str) -> str:
    """Return the text of a script that runs the function ``launch`` of a module of the engine in use.

    :arg entry: the name of the module in the engine.
    :arg mark: a comment line.
    """
    current = json.dumps(os.path.join(library, CURRENT))
    return LAUNCHER.format(python=python, mark=mark, current=current, engine=ENGINE, entry=entry)


def _remove(path: str) -> None:
    with os_errors(f"remove the directory {path}"):
        shutil.rmtree(path)


__all__ = ["EngineLibrary", "launcher"]

# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The engine as a package that another interpreter can import: a module, and everything that the module imports.

The engine is loaded from a checkout, from an installed collection, or from the archive that Ansible sends with a
module.
"""

from __future__ import annotations

import functools
import importlib.util
import io
import re
import zipfile
import zlib
from collections.abc import Container, Iterator

#: The name of the package on the other side.
ENGINE = "granary_vmstore"

#: The name of the package here.
_HERE = __name__.rpartition("._remote.")[0]

#: A block of imports for type checkers only. The block ends with the indentation. Patterns that begin with a line feed
#: are found much faster than with the beginning of a line.
_TYPE_CHECKING = re.compile(r"\nif TYPE_CHECKING:\n(?:(?: .*)?\n)+")
_IMPORT = re.compile(r"\n *from (\.+)([\w.]*) import (?:\(([^)]*)\)|(.*))")


@functools.cache
def engine_sources(module: str) -> dict[str, str]:
    """Return the source of ``module``, and of the modules of the engine that it imports, by the path below
    :data:`ENGINE`.

    Imports inside functions count, too. Each package has its ``__init__.py``, which is empty.

    :arg module: the full name of the module here.
    """
    sources: dict[str, str] = {"__init__.py": ""}
    pending = [path_in_engine(module)]
    while pending:
        name = pending.pop()
        path = f"{name.replace('.', '/')}.py"
        if path in sources:
            continue
        source = _read_source(name)
        if source is None:
            continue
        sources[path] = source
        packages = name.split(".")[:-1]
        for depth in range(1, len(packages) + 1):
            sources.setdefault("/".join([*packages[:depth], "__init__.py"]), "")
        pending.extend(_find_imports(name, source, sources))
    return sources


def path_in_engine(module: str) -> str:
    """Return the name of a module below :data:`ENGINE`.

    :arg module: the full name of the module here.
    """
    return module[len(_HERE) + 1 :]


def pack_engine(module: str) -> bytes:
    """Return :func:`engine_sources` as a ZIP file for Python's zipimport, compressed as a whole with zlib.

    Compression of the whole is smaller and faster than that of each file. Level 1 is enough, because only one host
    reads the archive, once.
    """
    with io.BytesIO() as file:
        with zipfile.ZipFile(file, "w") as archive:
            for path, source in engine_sources(module).items():
                archive.writestr(f"{ENGINE}/{path}", source)
        return zlib.compress(file.getvalue(), 1)


def _find_imports(name: str, source: str, known: Container[str]) -> Iterator[str]:
    """Yield the modules of the engine that a module imports, and perhaps names of other objects.

    Imported names aren't resolved, because this would run the module.

    :arg known: the paths of known modules.
    """
    for dots, path, many, one in _IMPORT.findall(_TYPE_CHECKING.sub("\n", source)):
        base = ".".join([*name.split(".")[: -len(dots)], *([path] if path else [])])
        if path and (f"{base.replace('.', '/')}.py" in known or _read_source(base) is not None):
            yield base
            continue
        for imported in (many or one.split("#")[0]).split(","):
            if imported.strip():
                yield ".".join(filter(None, [base, imported.split()[0]]))


@functools.cache
def _read_source(name: str) -> str | None:
    """Return the source of a module of the engine, or ``None`` for a package or another object."""
    try:
        found = importlib.util.find_spec(f"{_HERE}.{name}")
    except ModuleNotFoundError:  # the name isn't a module
        return None
    if found is None or found.submodule_search_locations is not None or found.loader is None:
        return None
    source: str | None = found.loader.get_source(found.name)  # type: ignore[attr-defined]  # a method of FileLoader
    return source


__all__ = ["ENGINE", "engine_sources", "pack_engine", "path_in_engine"]

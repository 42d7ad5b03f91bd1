# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""The cache of compiled modules in zip archives, in another process, as on a machine of a lab."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from lab import machine_python

#: Program that imports a module from an archive. Arguments: the directory of the addition, of the cache, the archive.
PROGRAM = """
import builtins, sys
sys.path[:0] = sys.argv[1:2]
import granary_lab
granary_lab.CACHE = sys.argv[2]
compiled, compile = False, builtins.compile
def observed(*arguments, **options):
    global compiled
    compiled = True
    return compile(*arguments, **options)
builtins.compile = observed
sys.path.insert(0, sys.argv[3])
import within
print(within.value, within.function.__code__.co_filename, compiled)
"""


class Machine:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.cache = directory / "cache"

    def run(self, value: str, archive: str = "archive.zip") -> list[str]:
        """Import the module from an archive. Return its value, the path in its code, and True if Python compiled it."""
        path = self.directory / archive
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("within.py", f"value = {value!r}\ndef function(): pass\n")
        (addition,) = {file.parent for file in machine_python.list_files()}
        done = subprocess.run(
            [sys.executable, "-I", "-c", PROGRAM, addition, self.cache, path],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.split()


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_a_module_is_compiled_once(machine: Machine) -> None:
    path = str(machine.directory / "{}" / "within.py")
    assert machine.run("one") == ["one", path.format("archive.zip"), "True"]
    assert machine.run("one", "other.zip") == ["one", path.format("other.zip"), "False"]
    assert [file.suffix for file in machine.cache.iterdir()] == [""]


def test_another_source_is_another_module(machine: Machine) -> None:
    assert machine.run("one")[0] == "one"
    assert machine.run("two")[::2] == ["two", "True"]


def test_a_user_who_cant_write_the_cache_compiles(machine: Machine) -> None:
    machine.cache.write_text("not a directory")
    assert machine.run("one")[::2] == ["one", "True"]
    assert machine.cache.read_text() == "not a directory"

# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""Find the Python interpreters of this machine, for `ansible-test sanity` and for the unit tests.

Usage: pythons.py [--oldest] LINKS CORE_IN

Fills the directory LINKS with one symbolic link `python3.N` per interpreter that the plugins support (3.9 and up).
CORE_IN is a requirements file with markers. For each ansible-core pinned there the program prints the newest
interpreter that gets this pin: `<minor version> <path> <ansible-core version>`. With --oldest the first line is `<minor
version> <path>` of the oldest Python that the plugins support, if this machine has it.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from packaging.requirements import Requirement

OLDEST = (3, 9)
# pyenv's shims choose an interpreter by the current directory, so the search is in the directories of its versions.
PYENV_ROOTS = (os.environ.get("PYENV_ROOT", ""), str(Path.home() / ".pyenv"))
PROBE = "import ensurepip, sys, venv; print(*sys.version_info[:3])"


def list_candidates() -> list[Path]:
    """Return the `python3.N` executables, those of the system first."""
    directories = [Path("/usr/bin"), Path("/usr/local/bin")]
    directories += [path for root in PYENV_ROOTS if root for path in sorted(Path(root, "versions").glob("3.*/bin"))]
    return [
        path
        for directory in directories
        for path in sorted(directory.glob("python3.*"))
        if re.fullmatch(r"python3\.\d+", path.name)
    ]


def probe_version(python: Path) -> tuple[int, ...] | None:
    """Return the interpreter's version; None if Python doesn't run or can't create a virtual environment."""
    try:
        done = subprocess.run([python, "-I", "-c", PROBE], capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return tuple(int(part) for part in done.stdout.split())


def find_interpreters() -> dict[tuple[int, ...], Path]:
    """Return one interpreter for each minor version, oldest first."""
    found: dict[tuple[int, ...], Path] = {}
    for path in list_candidates():
        version = probe_version(path)
        if version and version[:2] >= OLDEST:
            found.setdefault(version[:2], path)
    return dict(sorted(found.items()))


def choose_pin(minor: str, pins: list[Requirement]) -> str | None:
    """Return the ansible-core version that an interpreter of this minor version gets."""
    environment = {"python_version": minor, "python_full_version": f"{minor}.0"}
    for pin in pins:
        if pin.marker is None or pin.marker.evaluate(environment):
            return str(pin.specifier).removeprefix("==")
    return None


def main(links: Path, core_in: Path, *, oldest: bool) -> None:
    wanted = [Requirement(line) for line in core_in.read_text().splitlines() if line and not line.startswith("#")]
    pins = [requirement for requirement in wanted if requirement.name == "ansible-core"]
    shutil.rmtree(links, ignore_errors=True)
    links.mkdir(parents=True)
    newest: dict[str, str] = {}
    for version, path in find_interpreters().items():
        minor = ".".join(map(str, version))
        (links / f"python{minor}").symlink_to(path)
        if oldest and version == OLDEST:
            print(minor, path)
        core = choose_pin(minor, pins) if version >= (3, 11) else None
        if core:
            newest[core] = f"{minor} {path} {core}"
    print("\n".join(newest.values()))


if __name__ == "__main__":
    main(*map(Path, sys.argv[-2:]), oldest="--oldest" in sys.argv[1:-2])

# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""Compare the executed programs with the packages in a list.

Usage: programs.py FILE PACKAGE...

FILE is what execs.py wrote. Covered are the programs of each PACKAGE, of the packages that these depend on, and of the
minimal system: the essential and required packages, and apt. Each program that isn't covered is printed with the
program that started it, and the exit code is 1. Files that the run itself has created belong to no package and aren't
compared: files in the checkout, in /tmp and /var/tmp, scripts of dpkg and debconf, and files in memory.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
DPKG = Path("/var/lib/dpkg")
OUTSIDE = (f"{CHECKOUT}/", "/tmp/", "/var/tmp/", f"{DPKG}/", "/var/cache/debconf/", "/memfd:", "/proc/", "/dev/fd/")


@dataclass(frozen=True)
class Package:
    """An installed package; *basic* ones are on each system, *needs* has a list of alternatives for each dependency."""

    basic: bool
    needs: list[list[str]]
    provides: list[str]


def read_installed() -> dict[str, Package]:
    """Return the installed packages by name (deb-control(5))."""
    found = {}
    for paragraph in (DPKG / "status").read_text(encoding="utf-8").split("\n\n"):
        fields = dict(re.findall(r"^([\w-]+): (.*)$", paragraph, re.MULTILINE))
        if fields.get("Status", "").endswith(" installed"):
            basic = (
                fields.get("Essential") == "yes" or fields.get("Priority") == "required" or fields["Package"] == "apt"
            )
            needs = [
                [_name(word) for word in words.split("|")]
                for name in ("Pre-Depends", "Depends")
                for words in _items(fields.get(name, ""))
            ]
            found[fields["Package"]] = Package(
                basic, needs, [_name(word) for word in _items(fields.get("Provides", ""))]
            )
    return found


def _items(field: str) -> list[str]:
    return field.split(",") if field else []


def _name(relation: str) -> str:
    """Return the package of a relation such as ``perl:any (>= 5.36)``."""
    return re.split(r"[\s(:]", relation.strip(), maxsplit=1)[0]


def resolve_dependencies(packages: dict[str, Package], listed: Iterable[str]) -> set[str]:
    """Return the basic and the *listed* packages with all installed dependencies."""
    providers: dict[str, list[str]] = {}
    for name, package in packages.items():
        for provided in (name, *package.provides):
            providers.setdefault(provided, []).append(name)
    todo = [name for name, package in packages.items() if package.basic] + [
        name for word in listed for name in providers.get(word, ())
    ]
    done: set[str] = set()
    while todo:
        if (name := todo.pop()) not in done:
            done.add(name)
            todo += [
                provider
                for alternatives in packages[name].needs
                for word in alternatives
                for provider in providers.get(word, ())
            ]
    return done


def read_owners() -> dict[str, str]:
    """Return the package of each path that dpkg installed, without the leading /usr, because a merged /usr gives a path
    two names.
    """
    found = {}
    for file in (DPKG / "info").glob("*.list"):
        package = file.name.removesuffix(".list").partition(":")[0]
        for path in file.read_text(encoding="utf-8").splitlines():
            found[path.removeprefix("/usr")] = package
    return found


def list_unlisted(executed: Iterable[dict[str, str]], listed: Iterable[str]) -> Iterator[str]:
    """Yield a sentence for each program outside of the *listed* packages."""
    covered, owner, seen = resolve_dependencies(read_installed(), listed), read_owners(), set()
    for entry in executed:
        for path in (entry["path"], entry["exe"]):
            path = path if path.startswith(OUTSIDE) else os.path.realpath(path)
            # "/" is a file without a name, such as runc's copy of itself.
            if path == "/" or path.startswith(OUTSIDE) or path in seen:
                continue
            seen.add(path)
            package = owner.get(path.removeprefix("/usr"))
            if package not in covered:
                whose = (
                    f"belongs to the package {package}, which no listed package depends on"
                    if package
                    else "belongs to no package"
                )
                yield f"{entry['path']}, started by {entry['by']}, {whose}."


def main() -> int:
    executed = [json.loads(line) for line in Path(sys.argv[1]).read_text(encoding="utf-8").splitlines()]
    sentences = list(list_unlisted(executed, sys.argv[2:]))
    print(*sentences, sep="\n", end="\n" if sentences else "")
    return 1 if sentences or not executed else 0


if __name__ == "__main__":
    sys.exit(main())

# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""The common parts of the benchmarks: medians of interleaved runs, the table, and the drivers as on a front-end.

A figure only has a meaning beside another figure of the same machine and minute. Each row therefore has a floor, which
was measured in turns with the figure.
"""

from __future__ import annotations

import base64
import json
import os
import random
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

MIB = 1 << 20

#: The interpreter and its flags in the first line of each script that the role installs.
PYTHON = ["/usr/bin/python3", "-ISXutf8"]


@dataclass(frozen=True)
class Row:
    """A figure. ``value`` and ``floor`` are in ``unit``; ``target`` is the largest ratio and ``limit`` the largest
    value, None without a requirement.
    """

    what: str
    value: float
    floor_name: str
    floor: float
    unit: str = "s"
    target: float | None = None
    limit: float | None = None
    more: Mapping[str, object] | None = None


def format_table(rows: Sequence[Row]) -> str:
    """Return the rows as a Markdown table. A missed target is printed and is no error."""
    further = list(next((row.more for row in rows if row.more), {}))
    lines = [
        f"| what | figure | floor | its figure | ratio | target |{''.join(f' {name} |' for name in further)}",
        "|---" * (6 + len(further)) + "|",
    ]
    for row in rows:
        ratio = row.value / row.floor
        targets = [(f"{row.target:g}x", ratio, row.target)] if row.target is not None else []
        targets += [(f"{row.limit:g} {row.unit}", row.value, row.limit)] if row.limit is not None else []
        target = ", ".join(f"{name}: {'met' if found <= most else 'missed'}" for name, found, most in targets) or "-"
        more = "".join(f" {(row.more or {}).get(name, '-')} |" for name in further)
        lines.append(
            f"| {row.what} | {row.value:.3f} {row.unit} | {row.floor_name} | {row.floor:.3f} {row.unit} | {ratio:.2f}x "
            f"| {target} |{more}"
        )
    return "\n".join(lines)


def interleave(runs: int, works: Mapping[str, Callable[[], float]]) -> dict[str, float]:
    """Return by name the median of the results of each of ``works``.

    Each of them runs ``runs`` times, in turns. The order changes with each turn, because one work can slow down the
    next.
    """
    found: dict[str, list[float]] = {name: [] for name in works}
    order = random.Random(1)
    for _unused in range(runs):
        for name in order.sample(list(works), len(works)):
            found[name].append(works[name]())
        print(".", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return {name: statistics.median(values) for name, values in found.items()}


def measure_time(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def run(argv: Sequence[object], stdin: bytes = b"") -> str:
    done = subprocess.run([str(word) for word in argv], input=stdin, capture_output=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{argv[0]} failed: {done.stdout.decode()}{done.stderr.decode()}")
    return done.stdout.decode()


def measure_cpu(argv: Sequence[object], stdin: bytes = b"") -> float:
    """Return the CPU time of a command with all its children, user and system, in milliseconds (wait4(2))."""
    process = subprocess.Popen(
        [str(word) for word in argv], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    assert process.stdin
    process.stdin.write(stdin)
    process.stdin.close()
    _pid, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return 1000 * (usage.ru_utime + usage.ru_stime)


def count_processes(argv: Sequence[object], stdin: bytes = b"") -> int:
    """Return the number of processes of a command, itself included, counted by strace(1)."""
    with TemporaryDirectory() as directory:
        log = Path(directory) / "log"
        command = ["strace", "-f", "-qq", "-o", log, "-e", "trace=fork,vfork,clone,clone3", "-e", "signal=none", *argv]
        subprocess.run([str(word) for word in command], input=stdin, capture_output=True, check=False)
        calls = re.findall(
            r"(?:fork|clone3?)\(.*= [0-9]+$|(?:fork|clone3?) resumed.*= [0-9]+$", log.read_text(), re.MULTILINE
        )
    return 1 + sum("CLONE_THREAD" not in call for call in calls)


@contextmanager
def make_directory(directory: str) -> Iterator[Path]:
    """Yield a directory of this run."""
    with TemporaryDirectory(prefix="granary-bench-", dir=directory) as name:
        yield Path(name)


class FrontEnd:
    """The drivers, installed below ``root`` by their role."""

    def __init__(self, root: Path) -> None:
        self.remotes = root / "front-end" / "remotes"
        for name in ("datastore", "tm"):
            (self.remotes / name).mkdir(parents=True)
        places = {"remotes": self.remotes, "library": root / "library", "kept": root / "kept"}
        variables = {f"opennebula_drivers_{name}": str(path) for name, path in places.items()}
        play = {
            "hosts": "localhost",
            "connection": "local",
            "gather_subset": ["min"],
            "vars": variables,
            "roles": ["granary.vmstore.opennebula_drivers"],
        }
        (playbook := root / "play.yml").write_text(json.dumps([play]))
        run([Path(sys.executable).with_name("ansible-playbook"), "-i", "localhost,", playbook])

    def script(self, action: str, driver: str = "fs") -> list[object]:
        return [self.remotes / "datastore" / driver / action, "7"]


def build_document(store: Path, image: Mapping[str, object], template: str = "<TEMPLATE/>") -> bytes:
    """Return the document that a front-end sends: the image datastore in ``store``, and the elements of the image."""
    elements = "".join(f"<{name}>{text}</{name}>" for name, text in {"TYPE": 0, **image}.items())
    datastore = (
        f"<ID>100</ID><NAME>bench</NAME><TYPE>0</TYPE><TM_MAD>shared</TM_MAD><BASE_PATH>{store}</BASE_PATH>{template}"
    )
    return base64.b64encode(
        f"<DS_DRIVER_ACTION_DATA><IMAGE>{elements}</IMAGE><DATASTORE>{datastore}</DATASTORE></DS_DRIVER_ACTION_DATA>".encode()
    )

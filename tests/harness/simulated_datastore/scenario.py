# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""Runs a scenario: a datastore, its policies, and steps that act on it and look at what came of them."""
from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from . import checks, schema, settings
from .client import Control, start
from .errors import SimulatedDatastoreError


@dataclass(frozen=True)
class Outcome:
    """What became of a step: *problem* is empty when it did what it had to."""

    step: str
    problem: str = ""


def load(path: Path) -> dict[str, Any]:
    """The scenario in *path*; raises :class:`SimulatedDatastoreError` for a file that can't be read or isn't one."""
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise SimulatedDatastoreError(f"The scenario {str(path)!r} can't be read: {error}.") from error
    except yaml.YAMLError as error:
        raise SimulatedDatastoreError(f"The scenario {str(path)!r} isn't YAML: {' '.join(str(error).split())}.") from error
    schema.check(data)
    clients = [client["client"] for client in data["clients"]]
    for step in data.get("steps", ()):
        for name in re.findall(r"\{([A-Za-z0-9_.-]+)\}", " ".join(step.get("run", ()))):
            if name not in clients:
                raise SimulatedDatastoreError(f"run: {'{' + name + '}'!r} isn't the mount point of a client, the clients are {', '.join(clients)}.")
    return data


@contextmanager
def mounted(data: dict[str, Any], path: Path) -> Iterator[tuple[Control, dict[str, str]]]:
    """The datastore of a scenario: its control, and the mount point of each client. It and what it made go at the end."""
    base = path.absolute().parent
    own = Path(tempfile.mkdtemp(prefix="simulated-datastore-"))
    own.chmod(0o755)
    try:
        backing = base / data["backing"] if "backing" in data else own / "backing"
        if "backing" not in data:
            backing.mkdir()
        mounts = []
        for client in data["clients"]:
            point = base / client["mount_point"] if "mount_point" in client else own / "mounts" / checks.name("client", client["client"])
            if "mount_point" not in client:
                point.mkdir(parents=True, exist_ok=True)
            mounts.append({**client, "mount_point": str(point)})
        running = start(checks.name("name", data.get("name", path.stem)), backing, mounts, parent=os.getpid(), clock=data.get("clock", "real"))
        try:
            control = running.control()
            try:
                settings.apply(control, data.get("settings", {}))
                for rule in data.get("rules", ()):
                    control.call("rule.add", **rule)
                yield control, {mount["client"]: mount["mount_point"] for mount in mounts}
            finally:
                control.close()
        finally:
            running.end()
    finally:
        shutil.rmtree(own, ignore_errors=True)


def run(path: Path) -> Iterator[Outcome]:
    """Run the scenario in *path* and tell the outcome of each step; raises :class:`SimulatedDatastoreError` for what can't be set."""
    data = load(path)
    with mounted(data, path) as (control, mount_points):
        if "steps" not in data:
            yield Outcome("mounted at " + ", ".join(mount_points.values()))
            signal.sigwait({signal.SIGINT, signal.SIGTERM})
            return
        for number, step in enumerate(data["steps"], 1):
            yield Outcome(step.get("name", f"step {number}"), _step(control, step, mount_points))


def _step(control: Control, step: dict[str, Any], mount_points: dict[str, str]) -> str:
    if "set" in step:
        settings.apply(control, step["set"])
    if step.get("clear_rules"):
        control.call("rule.clear")
    if "rule" in step:
        control.call("rule.add", **step["rule"])
    if "mark" in step:
        control.call("ledger.mark", name=step["mark"])
    problem = _run(control, step, mount_points) if "run" in step else ""
    if "crash" in step:
        control.call("crash", **step["crash"])
    if step.get("restart"):
        control.call("restart")
    if "advance" in step:
        control.call("clock.advance", seconds=step["advance"])
    if not problem and "expect" in step:
        criteria = dict(step["expect"])
        wanted = criteria.pop("count", None)
        found = len(control.call("ledger.query", **criteria))
        if found != wanted if wanted is not None else not found:
            problem = f"{found} entries of the ledger match {criteria}, expected {'at least 1' if wanted is None else wanted}"
    return problem


def _run(control: Control, step: dict[str, Any], mount_points: dict[str, str]) -> str:
    words = []
    for word in step["run"]:
        for client, point in mount_points.items():
            word = word.replace("{" + client + "}", point)
        words.append(word)
    deadline = step.get("deadline", 60)
    try:
        process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, errors="replace",
                                   env={**os.environ, "LC_ALL": "C"})
    except (OSError, ValueError) as error:
        return f"{words[0]!r} can't be run: {getattr(error, 'strerror', None) or error}"
    try:
        _unused, stderr = process.communicate(timeout=deadline)
    except subprocess.TimeoutExpired:
        process.kill()
        # A request that hangs must be answered before its process can end.
        control.call("rule.clear")
        control.call("state.set", state="up")
        process.communicate()
        return f"{words[0]!r} didn't end within {deadline:g} seconds; all rules are cleared and the server is up for the next step"
    if process.returncode != step.get("exit", 0):
        return f"{words[0]!r} ended with {process.returncode}, expected {step.get('exit', 0)}: {' '.join(stderr.split())[-300:]}"
    if step.get("stderr", "") not in stderr:
        return f"{words[0]!r} didn't say {step['stderr']!r} but {' '.join(stderr.split())[-300:]!r}"
    return ""


__all__ = ["Outcome", "load", "mounted", "run"]

# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""Scenarios: a datastore, its policies, and steps that act and check results."""

from __future__ import annotations

import os
import re
import select
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from . import checks, schema, settings
from .client import Control, start
from .errors import SimulatedDatastoreError


@dataclass(frozen=True)
class Outcome:
    """The outcome of a step: *problem* is empty for a success."""

    step: str
    problem: str = ""


class _Problem(Exception):
    """The reason why a step failed."""


def load(path: Path) -> dict[str, Any]:
    """Read the scenario in *path*. Raises :class:`SimulatedDatastoreError` for an unreadable or invalid file."""
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise SimulatedDatastoreError(f"The scenario {str(path)!r} can't be read: {error}.") from error
    except yaml.YAMLError as error:
        raise SimulatedDatastoreError(
            f"The scenario {str(path)!r} isn't YAML: {' '.join(str(error).split())}."
        ) from error
    schema.check(data)
    clients = [client["client"] for client in data["clients"]]
    for step in data.get("steps", ()):
        for name in re.findall(r"\{([A-Za-z0-9_.-]+)\}", " ".join(step.get("run", ()))):
            if name not in clients:
                raise SimulatedDatastoreError(
                    f"run: {'{' + name + '}'!r} isn't the mount point of a client, the clients are "
                    f"{', '.join(clients)}."
                )
        if step.get("expect") == "hang" and ("run" not in step or {"exit", "stderr"} & step.keys()):
            raise SimulatedDatastoreError(
                "expect: a step that must hang needs a command to run, which has neither exit code nor stderr."
            )
    return data


@contextmanager
def mounted(data: dict[str, Any], path: Path) -> Iterator[tuple[Control, dict[str, str]]]:
    """Mount the datastore of a scenario, and yield its control and the mount point of each client.

    At the end the datastore and its directories are removed.
    """
    base = path.absolute().parent
    own = Path(tempfile.mkdtemp(prefix="simulated-datastore-"))
    own.chmod(0o755)
    try:
        backing = base / data["backing"] if "backing" in data else own / "backing"
        if "backing" not in data:
            backing.mkdir()
        mounts = []
        for client in data["clients"]:
            point = (
                base / client["mount_point"]
                if "mount_point" in client
                else own / "mounts" / checks.name("client", client["client"])
            )
            if "mount_point" not in client:
                point.mkdir(parents=True, exist_ok=True)
            mounts.append({**client, "mount_point": str(point)})
        running = start(
            checks.name("name", data.get("name", path.stem)),
            backing,
            mounts,
            parent=os.getpid(),
            clock=data.get("clock", "real"),
        )
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
    """Run the scenario in *path*, and yield the outcome of each step.

    Raises :class:`SimulatedDatastoreError` for invalid settings.
    """
    data = load(path)
    killed: list[subprocess.Popen[str]] = []
    with mounted(data, path) as (control, mount_points):
        if "steps" not in data:
            yield Outcome("mounted at " + ", ".join(mount_points.values()))
            signal.sigwait({signal.SIGINT, signal.SIGTERM})
            return
        for number, step in enumerate(data["steps"], 1):
            yield Outcome(step.get("name", f"step {number}"), _step(control, step, mount_points, killed))
    for process in killed:
        process.wait()


def _step(
    control: Control, step: dict[str, Any], mount_points: dict[str, str], killed: list[subprocess.Popen[str]]
) -> str:
    if "set" in step:
        settings.apply(control, step["set"])
    if step.get("clear_rules"):
        control.call("rule.clear")
    if "rule" in step:
        control.call("rule.add", **step["rule"])
    if "mark" in step:
        control.call("ledger.mark", name=step["mark"])
    hang = step.get("expect") == "hang"
    problem = (
        ""
        if "run" not in step
        else _hang(control, step, mount_points, killed)
        if hang
        else _run(control, step, mount_points)
    )
    if "crash" in step:
        control.call("crash", **step["crash"])
    if step.get("restart"):
        control.call("restart")
    if "advance" in step:
        control.call("clock.advance", seconds=step["advance"])
    if not problem and "expect" in step and not hang:
        criteria = dict(step["expect"])
        wanted = criteria.pop("count", None)
        found = len(control.call("ledger.query", **criteria))
        if found != wanted if wanted is not None else not found:
            problem = (
                f"{found} entries of the ledger match {criteria}, expected {'at least 1' if wanted is None else wanted}"
            )
    return problem


def _start(step: dict[str, Any], mount_points: dict[str, str], stderr: int) -> subprocess.Popen[str]:
    """Start the command of a step. Raises :class:`_Problem` if it can't be started."""
    words = []
    for word in step["run"]:
        for client, point in mount_points.items():
            word = word.replace("{" + client + "}", point)
        words.append(word)
    try:
        return subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            text=True,
            errors="replace",
            env={**os.environ, "LC_ALL": "C"},
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        raise _Problem(f"{words[0]!r} can't be run: {getattr(error, 'strerror', None) or error}") from error


def _hang(
    control: Control, step: dict[str, Any], mount_points: dict[str, str], killed: list[subprocess.Popen[str]]
) -> str:
    """Run a command that must hang, and kill it. The command ends when its request is answered.

    Without an answer the command would wait on, as with a real server.
    """
    deadline, before = step.get("deadline", 60), control.call("status")["hanging"]
    try:
        process = _start(step, mount_points, subprocess.DEVNULL)
    except _Problem as problem:
        return str(problem)
    killed.append(process)
    waiter = Control(control.path)
    try:
        ended = os.pidfd_open(process.pid)
        waiter.ask("wait_for", predicate={"hanging": before + 1}, timeout=deadline)
        sources: list[Control | int] = [waiter, ended]
        ready = select.select(sources, [], [], deadline + 30)[0]
        os.close(ended)
        if waiter in ready:
            waiter.answer()
            return ""
        return f"{step['run'][0]!r} ended with {process.wait()}, and had to hang"
    except SimulatedDatastoreError:
        return f"{step['run'][0]!r} didn't hang within {deadline:g} seconds: no request of it waits for the server"
    finally:
        waiter.close()
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def _run(control: Control, step: dict[str, Any], mount_points: dict[str, str]) -> str:
    words, deadline = step["run"], step.get("deadline", 60)
    try:
        process = _start(step, mount_points, subprocess.PIPE)
    except _Problem as problem:
        return str(problem)
    try:
        _unused, stderr = process.communicate(timeout=deadline)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        # A process ends only after the answer to its hanging request.
        control.call("rule.clear")
        control.call("state.set", state="up")
        process.communicate()
        return (
            f"{words[0]!r} didn't end within {deadline:g} seconds; all rules are cleared and the server is up for the "
            "next step"
        )
    except BaseException:
        # The process doesn't get the signals of the terminal.
        os.killpg(process.pid, signal.SIGKILL)
        raise
    if process.returncode != step.get("exit", 0):
        last = " ".join(stderr.split())[-300:]
        return f"{words[0]!r} ended with {process.returncode}, expected {step.get('exit', 0)}: {last}"
    if step.get("stderr", "") not in stderr:
        return f"{words[0]!r} didn't say {step['stderr']!r} but {' '.join(stderr.split())[-300:]!r}"
    return ""


__all__ = ["Outcome", "load", "mounted", "run"]

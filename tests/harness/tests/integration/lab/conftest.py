# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""The traces of a lab on the machine, found without the lab's own code."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any, ClassVar

import pytest


class Traces:
    """The existing parts of the lab called *name*."""

    #: The result of ``all_of`` for a removed lab.
    NOTHING: ClassVar[dict[str, list[str]]] = {
        "containers": [],
        "networks": [],
        "bridges": [],
        "processes": [],
        "mounts": [],
        "namespaces": [],
        "runtime": [],
    }

    @staticmethod
    def podman(*arguments: str) -> str:
        return subprocess.run(["podman", *arguments], capture_output=True, text=True, check=True).stdout

    @staticmethod
    def containers(name: str) -> list[str]:
        """The ids of all containers with the lab's label."""
        return Traces.podman("ps", "--all", "--quiet", "--no-trunc", "--filter", f"label=granary.lab={name}").split()

    @staticmethod
    def networks() -> list[dict[str, Any]]:
        return list(json.loads(Traces.podman("network", "ls", "--format", "json") or "[]"))

    @staticmethod
    def bridges(name: str) -> list[str]:
        """The bridges that podman has for networks with the lab's name."""
        return [each["network_interface"] for each in Traces.networks() if each["name"].startswith(f"lab-{name}")]

    @staticmethod
    def processes(name: str) -> list[str]:
        """The command lines of processes that carry the lab's name in their environment or arguments, but for this
        test's own.
        """
        found = []
        for directory in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                arguments = (directory / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                environment = (directory / "environ").read_bytes().split(b"\0")
                if int(directory.name) != os.getpid() and (
                    f"lab-{name}-" in arguments or f"GRANARY_LAB={name}".encode() in environment
                ):
                    found.append(arguments)
        return found

    @staticmethod
    def mounts(ids: list[str]) -> list[str]:
        """The lines of mountinfo that name one of the containers."""
        return [
            line
            for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
            if any(each in line for each in ids)
        ]

    @staticmethod
    def unused_namespaces() -> list[str]:
        """The network namespaces in /run/netns that no process is in; a container that just starts has one for a
        moment.
        """
        end = time.monotonic() + 5
        while True:
            used = set()
            for path in Path("/proc").glob("[0-9]*/ns/net"):
                with contextlib.suppress(OSError):
                    used.add(path.stat().st_ino)
            unused = []
            for path in Path("/run/netns").glob("*"):
                with contextlib.suppress(OSError):
                    unused += [] if path.stat().st_ino in used else [path.name]
            if not unused or time.monotonic() > end:
                return unused
            time.sleep(0.1)

    @staticmethod
    def all_of(name: str, ids: list[str], links: list[str]) -> dict[str, list[str]]:
        """Every trace of the lab by kind; *ids* and *links* are its containers and bridges while it was there."""
        others = [each["network_interface"] for each in Traces.networks()]
        return {
            "containers": Traces.containers(name),
            "networks": Traces.bridges(name),
            "bridges": [link for link in links if Path("/sys/class/net", link).exists() and link not in others],
            "processes": Traces.processes(name),
            "mounts": Traces.mounts(ids),
            "namespaces": Traces.unused_namespaces(),
            "runtime": [str(path) for path in [Path("/run/granary-lab", name)] if path.exists()],
        }


@pytest.fixture
def traces() -> type[Traces]:
    return Traces

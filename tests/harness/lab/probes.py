# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""What this machine is like, and which precautions podman and the guests need for it."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

CAP_SYS_RESOURCE = 24
#: podman lowers its own limits to these; without CAP_SYS_RESOURCE a container can't have more.
PODMAN_NOFILE = 1048576
PODMAN_NPROC = 32768


@dataclass(frozen=True)
class Probe:
    """What one probe *found*, and the *precaution* that follows from it ("" for none)."""

    name: str
    found: str
    precaution: str = ""


def cgroups(mounts: str) -> Probe:
    """crun refuses cgroup v1 and hybrids of v1 and v2, and podman would share one cgroup path among containers
    there.

    *mounts* is the text of /proc/self/mounts.
    """
    kinds = {
        line.split()[2]
        for line in mounts.splitlines()
        if line.count(" ") >= 3 and line.split()[1].startswith("/sys/fs/cgroup")
    }
    if kinds == {"cgroup2"}:
        return Probe("cgroups", "version 2 only")
    return Probe(
        "cgroups", "version 1 or hybrid" if kinds else "not mounted", "runtime runc, private cgroup namespaces"
    )


def service_manager(booted: bool) -> Probe:
    """Without systemd as the machine's PID 1 podman can ask nobody for a scope, and there is no journal for its
    events.
    """
    if booted:
        return Probe("service manager", "systemd")
    return Probe("service manager", "not systemd", "cgroup manager cgroupfs, no event log")


def resource_limits(effective_capabilities: int) -> Probe:
    """Without CAP_SYS_RESOURCE podman's default limits, higher than the machine's, can't be set (setrlimit(2))."""
    if effective_capabilities >> CAP_SYS_RESOURCE & 1:
        return Probe("CAP_SYS_RESOURCE", "present")
    return Probe("CAP_SYS_RESOURCE", "missing", "no default ulimit above the machine's")


def machine() -> list[Probe]:
    """The probes that need nothing but /proc."""
    status = dict(
        line.split(":", 1)
        for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
        if ":" in line
    )
    return [
        cgroups(Path("/proc/self/mounts").read_text(encoding="utf-8", errors="replace")),
        service_manager(os.path.isdir("/run/systemd/system")),
        resource_limits(int(status["CapEff"], 16)),
    ]


def containers_conf(probes: list[Probe], limit: Callable[[int], tuple[int, int]] = resource.getrlimit) -> str:
    """The text of a containers.conf(5) that applies the precautions, "" when none is needed.  *limit* gives (soft,
    hard).
    """
    needed = {probe.name for probe in probes if probe.precaution}
    engine: list[str] = []
    containers: list[str] = []
    if "cgroups" in needed:
        engine.append('runtime = "runc"')
        containers.append('cgroupns = "private"')
    if "service manager" in needed:
        engine += ['cgroup_manager = "cgroupfs"', 'events_logger = "none"']
    if "CAP_SYS_RESOURCE" in needed:
        hard = {
            name: _at_most(limit(number)[1], most)
            for name, number, most in (
                ("nofile", resource.RLIMIT_NOFILE, PODMAN_NOFILE),
                ("nproc", resource.RLIMIT_NPROC, PODMAN_NPROC),
            )
        }
        ulimits = ", ".join(f'"{name}={value}:{value}"' for name, value in hard.items())
        containers.append(f"default_ulimits = [{ulimits}]")
    sections = [
        f"[{name}]\n" + "\n".join(lines) + "\n"
        for name, lines in (("engine", engine), ("containers", containers))
        if lines
    ]
    return "".join(sections)


def _at_most(value: int, most: int) -> int:
    return most if value == resource.RLIM_INFINITY else min(value, most)


__all__ = ["Probe", "cgroups", "containers_conf", "machine", "resource_limits", "service_manager"]

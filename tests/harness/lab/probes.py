# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""Probes of this machine, and the precautions for podman and the guests that follow from them."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

CAP_SYS_RESOURCE = 24
#: Upper bounds of podman's own limits. Without CAP_SYS_RESOURCE a container can't have more.
PODMAN_NOFILE = 1048576
PODMAN_NPROC = 32768


@dataclass(frozen=True)
class Probe:
    """The result of one probe (*found*), and the *precaution* that follows ("" for none)."""

    name: str
    found: str
    precaution: str = ""


def probe_cgroups(mounts: str) -> Probe:
    """Probe for cgroup v1 and hybrids of v1 and v2 in *mounts*, the text of /proc/self/mounts.

    crun refuses these versions, and podman would share one cgroup path among containers.
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


def probe_service_manager(booted: bool) -> Probe:
    """Probe for systemd as PID 1. Without systemd there are no scopes for podman, and no journal for its events."""
    if booted:
        return Probe("service manager", "systemd")
    return Probe("service manager", "not systemd", "cgroup manager cgroupfs, no event log")


def probe_resource_limits(effective_capabilities: int) -> Probe:
    """Probe for CAP_SYS_RESOURCE. Without it podman's default limits can't exceed the machine's (setrlimit(2))."""
    if effective_capabilities >> CAP_SYS_RESOURCE & 1:
        return Probe("CAP_SYS_RESOURCE", "present")
    return Probe("CAP_SYS_RESOURCE", "missing", "no default ulimit above the machine's")


def probe_tun(exists: bool) -> Probe:
    """Probe for the device by which a host with a kernel of its own is connected to the network."""
    if exists:
        return Probe("/dev/net/tun", "present")
    return Probe("/dev/net/tun", "missing", "no host of kind uml, before 'modprobe tun'")


def probe_machine() -> list[Probe]:
    """Run the probes that need only /proc."""
    status = dict(
        line.split(":", 1)
        for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
        if ":" in line
    )
    return [
        probe_cgroups(Path("/proc/self/mounts").read_text(encoding="utf-8", errors="replace")),
        probe_service_manager(os.path.isdir("/run/systemd/system")),
        probe_resource_limits(int(status["CapEff"], 16)),
        probe_tun(os.path.exists("/dev/net/tun")),
    ]


def format_containers_conf(probes: list[Probe], limit: Callable[[int], tuple[int, int]] = resource.getrlimit) -> str:
    """Return a containers.conf(5) with the precautions, "" without any; *limit* returns the (soft, hard) limit."""
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


__all__ = [
    "Probe",
    "probe_cgroups",
    "format_containers_conf",
    "probe_machine",
    "probe_resource_limits",
    "probe_service_manager",
    "probe_tun",
]

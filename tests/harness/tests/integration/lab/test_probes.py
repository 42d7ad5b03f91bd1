# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""Precautions follow from probes only."""

from __future__ import annotations

import os
import resource
import subprocess
import tomllib
from pathlib import Path

import pytest
from lab import probes
from lab.podman import Podman

V2 = "cgroup2 /sys/fs/cgroup cgroup2 rw,nosuid 0 0\n"
HYBRID = (
    "tmpfs /sys/fs/cgroup tmpfs ro 0 0\ncgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\ncgroup2 /sys/fs/cgroup/unified "
    "cgroup2 rw 0 0\n"
)


@pytest.mark.parametrize(
    ("mounts", "asks"), [(V2, False), (HYBRID, True), ("", True), ("proc /proc proc rw 0 0\nbroken\n" + V2, False)]
)
def test_cgroups(mounts: str, asks: bool) -> None:
    assert bool(probes.probe_cgroups(mounts).precaution) is asks


def test_service_manager() -> None:
    assert not probes.probe_service_manager(True).precaution
    assert probes.probe_service_manager(False).precaution


def test_resource_limits() -> None:
    assert not probes.probe_resource_limits(0x1FFFFFFFFFF).precaution
    assert probes.probe_resource_limits(0x1FFFEFFFFFF).precaution


def test_the_device_of_hosts_with_a_kernel() -> None:
    assert not probes.probe_tun(True).precaution
    assert "modprobe tun" in probes.probe_tun(False).precaution


def test_an_ordinary_podman_gets_no_configuration() -> None:
    assert (
        probes.format_containers_conf(
            [probes.probe_cgroups(V2), probes.probe_service_manager(True), probes.probe_resource_limits(1 << 24)]
        )
        == ""
    )


def test_each_precaution_by_itself() -> None:
    def limit(_number: int) -> tuple[int, int]:
        return 1024, 20000

    hybrid = tomllib.loads(probes.format_containers_conf([probes.probe_cgroups(HYBRID)], limit))
    assert hybrid == {"engine": {"runtime": "runc"}, "containers": {"cgroupns": "private"}}
    no_systemd = tomllib.loads(probes.format_containers_conf([probes.probe_service_manager(False)], limit))
    assert no_systemd == {"engine": {"cgroup_manager": "cgroupfs", "events_logger": "none"}}
    limited = tomllib.loads(probes.format_containers_conf([probes.probe_resource_limits(0)], limit))
    assert limited == {"containers": {"default_ulimits": ["nofile=20000:20000", "nproc=20000:20000"]}}


def test_no_limit_is_not_a_limit_of_minus_one() -> None:
    text = probes.format_containers_conf([probes.probe_resource_limits(0)], lambda _number: (0, resource.RLIM_INFINITY))
    assert tomllib.loads(text)["containers"]["default_ulimits"] == ["nofile=1048576:1048576", "nproc=32768:32768"]


def test_podman_takes_what_this_machine_needs() -> None:
    runtime = Podman("probes")("info", "--format", "{{.Host.OCIRuntime.Name}} {{.Host.CgroupManager}}").stdout.split()
    needed = {probe.name for probe in probes.probe_machine() if probe.precaution}
    assert "cgroups" not in needed or runtime[0] == "runc"
    assert "service manager" not in needed or runtime[1] == "cgroupfs"


def test_the_table_has_a_line_for_each_probe() -> None:
    lines = subprocess.run(["lab", "probe"], capture_output=True, text=True, check=True).stdout.splitlines()
    assert [line.split("  ")[0].strip() for line in lines] == [
        "cgroups",
        "service manager",
        "CAP_SYS_RESOURCE",
        "/dev/net/tun",
        "KVM",
    ]
    assert ("systemd" in lines[1] and "not systemd" not in lines[1]) == os.path.isdir("/run/systemd/system")
    assert Path("/dev/kvm").exists() or "TCG" in lines[4]

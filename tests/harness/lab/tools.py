# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""Checks for root and for the programs of a lab."""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection

from . import probes
from .errors import LabError
from .spec import UML


def check_root() -> None:
    """Raise :class:`LabError` without root."""
    if os.geteuid() != 0:
        raise LabError("A lab needs root: run it with sudo.")


def check_tools(kinds: Collection[str]) -> None:
    """Raise :class:`LabError` without root, or without the programs and devices that hosts of these *kinds* need."""
    check_root()
    packages = {
        "podman": "podman",
        "mmdebstrap": "mmdebstrap",
        "mke2fs": "e2fsprogs",
        "ssh": "openssh-client",
        "ip": "iproute2",
        "setpriv": "util-linux",
        # podman's netavark runs one of the two, depending on its version, and its error for a missing one has no name.
        "iptables": "iptables",
        "nft": "nftables",
    }
    needed = {probe.name: probe.precaution for probe in probes.probe_machine() if probe.precaution}
    if "cgroups" in needed:
        packages["runc"] = "runc"
    if missing := [package for program, package in packages.items() if not shutil.which(program)]:
        raise LabError(f"Packages are missing: apt-get install {' '.join(missing)}.")
    if UML in kinds and "/dev/net/tun" in needed:
        raise LabError(f"The device /dev/net/tun is missing: {needed['/dev/net/tun']}.")


__all__ = ["check_root", "check_tools"]

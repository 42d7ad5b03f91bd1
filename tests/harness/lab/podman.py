# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""podman with the precautions that this machine needs."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from typing import Any

from . import cache, probes
from .run import MARK, run


class Podman:
    """The containers and the network of one lab. All of them carry the lab's label."""

    def __init__(self, lab: str) -> None:
        self.lab = lab
        self.label = f"granary.lab={lab}"
        self._environment = {MARK: lab, **environment()}

    def __call__(
        self, *arguments: str, deadline: float = 60, stdin: bytes = b"", check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run podman. Raises :class:`LabError`.

        The end of the lab's process doesn't kill a running podman, so that podman's database stays consistent.
        """
        return run(
            ["podman", *arguments],
            deadline=deadline,
            stdin=stdin,
            check=check,
            env=self._environment,
            dies_with_lab=False,
        )

    def create_network(self, name: str) -> str:
        """Create a network with a free IPv4 subnet and return the subnet."""
        self("network", "create", "--disable-dns", "--label", self.label, name)
        return str(json.loads(self("network", "inspect", name).stdout)[0]["subnets"][0]["subnet"])

    def networks(self) -> list[dict[str, Any]]:
        """Return the networks of this lab from ``podman network inspect``."""
        names = self("network", "ls", "--quiet", "--filter", f"label={self.label}").stdout.split()
        return list(json.loads(self("network", "inspect", *names).stdout)) if names else []

    def containers(self) -> list[str]:
        """Return the ids of this lab's containers, running or not."""
        return self("ps", "--all", "--quiet", "--no-trunc", "--filter", f"label={self.label}").stdout.split()


def environment() -> dict[str, str]:
    """Return the environment variables for podman's precautions on this machine."""
    text = probes.format_containers_conf(probes.probe_machine())
    if not text:
        return {}
    # A container that shares the cache may need other precautions than its machine, hence the hash in the name.
    path = cache.root() / f"containers-{hashlib.sha256(text.encode()).hexdigest()[:16]}.conf"
    temporary = path.with_suffix(f".{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    temporary.rename(path)
    return {"CONTAINERS_CONF": str(path)}


__all__ = ["Podman", "environment"]

# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""The probe of KVM. Only a boot proves it, because a kernel can hang where capabilities and even a boot sector work."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from . import cache
from .errors import LabError
from .podman import Podman
from .probes import Probe
from .run import shorten_output

#: Upper bound of the boot in seconds; an emulated boot takes five.
DEADLINE = 15


def boots_kernel(podman: Podman, tree: Path, image: Path, say: Callable[[str], None]) -> bool:
    """Return True if KVM boots the image's kernel in a container on *tree*; tried once per boot of the machine."""
    if not os.path.exists("/dev/kvm"):
        return False
    answer = _locate_answer()
    if not answer.exists():
        say(f"           booting a kernel with KVM as a trial, for at most {DEADLINE} seconds")
        done = podman(
            "run",
            "--rm",
            "--label",
            podman.label,
            "--network",
            "none",
            "--device",
            "/dev/kvm",
            f"--volume={image}:/image:ro",
            "--rootfs",
            f"{tree}:O",
            "timeout",
            "--signal=KILL",
            str(DEADLINE),
            "qemu-system-x86_64",
            "-accel",
            "kvm",
            "-cpu",
            "max",
            "-m",
            "256",
            "-nodefaults",
            "-display",
            "none",
            "-no-reboot",
            "-serial",
            "stdio",
            "-kernel",
            "/image/vmlinuz",
            "-initrd",
            "/image/probe",
            "-append",
            "console=ttyS0 quiet no_timer_check panic=-1",
            deadline=DEADLINE + 60,
            check=False,
        )
        if done.returncode in range(125, 128):
            raise LabError(f"The KVM probe can't be run: {shorten_output(done.stderr)}")
        temporary = answer.with_suffix(f".{os.getpid()}")
        temporary.write_text("yes" if "lab: a kernel runs here" in done.stdout else "no", encoding="ascii")
        temporary.rename(answer)
    return answer.read_text(encoding="ascii") == "yes"


def probe() -> Probe:
    """Return the known state of KVM, without a boot."""
    if not os.path.exists("/dev/kvm"):
        return Probe("KVM", "no /dev/kvm", "guests are emulated (TCG)")
    answer = _locate_answer()
    if not answer.exists():
        return Probe("KVM", "not tried since the machine's start: the first lab with a guest does")
    if answer.read_text(encoding="ascii") == "yes":
        return Probe("KVM", "runs a kernel")
    return Probe("KVM", "runs no kernel", "guests are emulated (TCG), hosts have no /dev/kvm")


def _locate_answer() -> Path:
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return cache.root() / f"kvm-{boot}"


__all__ = ["probe", "boots_kernel"]

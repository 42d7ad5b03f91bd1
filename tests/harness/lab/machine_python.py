# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""The addition to Python on hosts and guests: a cache of compiled modules (``guest/granary_lab.py``)."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

#: Directory of Debian's Python, whatever the version.
_PACKAGES = "/usr/lib/python3/dist-packages"


def list_files() -> dict[Path, str]:
    """Return the files of the addition, with their paths on the machine."""
    with resources.as_file(resources.files(__package__).joinpath("guest")) as directory:
        return {directory / name: f"{_PACKAGES}/{name}" for name in ("granary_lab.py", "granary_lab.pth")}


__all__ = ["list_files"]

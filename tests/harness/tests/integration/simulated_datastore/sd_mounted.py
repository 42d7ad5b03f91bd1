# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""The mounted datastore of a test."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from simulated_datastore.client import Control, Running, start


class Mounted:
    """A mounted datastore: *path* is its mount, *backing* the directory beneath, *beside* a directory of the same file
    system.
    """

    def __init__(self, name: str, root: Path, mounts: list[dict[str, Any]] | None = None, **options: Any) -> None:
        self.backing = root / "backing"
        self.beside = root / "beside"
        self.path = root / "mount"
        self.log = root / "log"
        for directory in (self.backing, self.beside, self.path):
            directory.mkdir()
        for mount in mounts or ():
            Path(mount.setdefault("mount_point", str(root / mount["client"]))).mkdir(exist_ok=True)
        self.running: Running = start(
            name,
            self.backing,
            mounts or [{"mount_point": str(self.path)}],
            parent=os.getpid(),
            log=root / "log",
            **options,
        )
        self.control: Control = self.running.control()

    def call(self, method: str, **params: Any) -> Any:
        return self.control.call(method, **params)

    def end(self) -> None:
        log = self.log.read_text(encoding="utf-8")
        self.control.close()
        self.running.end()
        assert " ERROR simulated_datastore" not in log, log

# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""A host with exports of its own. The real exportfs(8) runs in a mount namespace, because it has no option for the
place of its files. The machine's kernel may lack an NFS server.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

#: The directory ``etc`` of the host is laid over that of the machine, because exportfs also resolves names.
WRAPPER = """#!/bin/sh
exec {unshare} --mount {sh} -ec '
{mount} -t overlay -o "lowerdir=$1/etc:/etc" none /etc
{mount} --bind "$1/state" /var/lib/nfs
shift
exec {exportfs} "$@"
' sh {base} "$@"
"""


class NfsHost:
    """Directories that represent the host's /etc, /var/lib/nfs and /proc, and directories to export."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.etc, self.state, self.proc, self.bin = (base / name for name in ("etc", "state", "proc", "bin"))
        self.data = base / "data"
        for directory in (self.etc, self.state, self.proc / "self", self.bin, self.data):
            directory.mkdir(parents=True)
        self.exports = self.etc / "exports"
        self.exports.write_text("# exports\n")
        (self.state / "etab").touch()
        (self.proc / "self" / "mountinfo").write_text(Path("/proc/self/mountinfo").read_text())
        (self.proc / "filesystems").write_text(Path("/proc/filesystems").read_text())
        wrapper = self.bin / "exportfs"
        programs = {name: _find(name) for name in ("unshare", "sh", "mount", "exportfs")}
        wrapper.write_text(WRAPPER.format(base=base, **programs))
        wrapper.chmod(0o755)

    def arguments(self) -> tuple[str, str, str]:
        return str(self.etc), str(self.proc), str(self.state / "rmtab")

    def exportfs(self, *arguments: str) -> str:
        """Run exportfs and return its output."""
        return subprocess.run([self.bin / "exportfs", *arguments], check=True, stdout=subprocess.PIPE, text=True).stdout

    def table(self) -> list[str]:
        """Return the lines of ``exportfs -v``, those of long paths joined, with single blanks."""
        lines = self.exportfs("-v").replace("\n\t\t", " ").split("\n")
        return [re.sub("[ \t]+", " ", line) for line in lines if line]

    def file(self, name: str) -> Path:
        return self.etc / "exports.d" / f"{name}.exports"

    def run_server(self, exports: str = "", clients: dict[str, str] | None = None, domains: str = "") -> None:
        """Give the host the kernel's files of a running server.

        :arg exports: the lines of the kernel's table.
        :arg clients: version 4.2 clients, each with the address.
        """
        nfsd = self.proc / "fs" / "nfsd"
        nfsd.mkdir(parents=True, exist_ok=True)
        (nfsd / "threads").write_text("8\n")
        (nfsd / "versions").write_text("-3 +4 -4.0 +4.1 +4.2\n")
        for name, address in (clients or {}).items():
            (nfsd / "clients" / name).mkdir(parents=True)
            text = f'clientid: 0x1\naddress: "{address}:781"\nstatus: confirmed\nminor version: 2\n'
            (nfsd / "clients" / name / "info").write_text(text)
        for cache, text in (("auth.unix.ip", domains), ("nfsd.export", exports)):
            content = self.proc / "net" / "rpc" / cache / "content"
            content.parent.mkdir(parents=True, exist_ok=True)
            content.write_text(text)


def _find(program: str) -> str:
    path = shutil.which(program)
    if path is None:
        raise AssertionError(f"{program} is missing: install the packages in tests/apt-packages.txt")
    return path

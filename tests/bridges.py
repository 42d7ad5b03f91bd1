# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""Bridges of datastores on this machine: one sshd(8), and programs that well and badly behaved hosts run."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from ssh_hosts import PATH, free_port, make_key, server_command, wait_for_server, write_client

#: Command that prepares a mount namespace with the datastores of the bridges, and the /run/sshd that sshd needs.
AS_BRIDGE = 'mkdir -p /run/sshd && mount --bind "$1" "$2" && shift 2 && exec "$@"'

#: Options of a key in authorized_keys. An empty home directory excludes the shell's start-up files of this machine.
ENVIRONMENT = 'environment="HOME={empty}",environment="PATH={path}"'

#: Banner that python3 prints on a bridge before it reads the engine, and a line of the engine.
GREETING = "echo granary.vmstore is here; read -r length"
LOG_LINE = r"{\"log\": \"still here\"}"

#: Names of the bridges, and the command that each bridge runs instead of the requested one. ``bare`` has no commands.
LOGINS = {
    "h1": "",
    "h2": "",
    "bare": "",
    "noisy": r"""echo 'welcome {'; printf '\377\n'; eval \"$SSH_ORIGINAL_COMMAND\"""",
    "old": r"""c=${SSH_ORIGINAL_COMMAND#*-c }; """
    r"""eval exec python3 -c '\"import sys;sys.version_info=(3,8,0);exec(sys.argv[1])\"' \"$c\"""",
    "slow": "exec cat",
    "welcoming": "exec yes welcome",
    "slowly": "while echo welcome; do sleep 0.05; done",
    "flooding": f"""{GREETING}; yes '{LOG_LINE}'""",
    "shouting": f"""{GREETING}; printf '%0100000d' 0 | sed 's/.*/{{\\"log\\": \\"&\\"}}/'; echo; cat""",
    "logging": f"""{GREETING}; while echo '{LOG_LINE}'; do sleep 0.05; done""",
    "complaining": f"{GREETING}; exec yes >&2",
    "endless": f"{GREETING}; exec tr '\\\\0' x < /dev/zero",
    "lying": "exec python3 -I $HOME/../liar.py",
    "closed": "echo This account is closed.; exit 1",
}


class Bridges:
    """Hosts with the names of ``LOGINS``, and unreachable ``dead`` ones; all are one sshd.

    ``store`` is the path of a datastore on all machines; the directory stays empty on the front-end. ``data`` is the
    same directory of the bridges, as the test reaches it.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.datastores = root / "datastores"
        self.store = self.datastores / "100"
        self.data = root / "bridges" / "100"
        self.ssh = root / "sshd"
        self._earlier = 0

    def connections(self) -> int:
        """Return the number of logins since :meth:`renew`."""
        return self._logins() - self._earlier

    def _logins(self) -> int:
        return (self.ssh / "server.log").read_text().count("Accepted publickey for root")

    def stored(self) -> list[str]:
        """Return all files of the datastore, temporary ones too. None of them may be on the front-end."""
        assert list(self.datastores.rglob("*")) == []
        return sorted(str(path.relative_to(self.data)) for path in self.data.rglob("*"))

    def path(self, source: str) -> Path:
        """Return the path of the image ``source`` on the bridges, as the test reaches it."""
        assert source.startswith(f"{self.store}/")
        return self.data / source[len(str(self.store)) + 1 :]

    def set_up(self) -> list[str]:
        """Return the command of the server."""
        for directory in (self.datastores, self.data, self.ssh, self.root / "empty"):
            directory.mkdir(parents=True)
        self.port = free_port()
        make_key(self.ssh / "host")
        public = {name: make_key(self.ssh / name) for name in LOGINS}
        hosts = "".join(f"Host {name}\n  IdentityFile {self.ssh}/{name}\n  Port {self.port}\n" for name in LOGINS)
        self.binaries = write_client(self.ssh, hosts, user="root")
        empty, authorized = self.root / "empty", ""
        for name, command in LOGINS.items():
            options = ENVIRONMENT.format(empty=empty, path=empty if name == "bare" else f"{self.binaries}:{PATH}")
            options += f',command="{command}"' if command else ""
            authorized += f"{options} {public[name]}"
        (self.ssh / "authorized_keys").write_text(authorized)
        command = server_command(self.ssh, "PermitRootLogin yes", "PermitUserEnvironment yes", port=self.port)
        return ["unshare", "-m", "sh", "-ec", AS_BRIDGE, "sh", str(self.data.parent), str(self.datastores), *command]

    def renew(self) -> None:
        """Remove the files of all datastores, and count logins from now on."""
        for place in (self.data.parent, self.datastores):
            for path in place.iterdir():
                subprocess.run(["rm", "-rf", path], check=True)
        self.data.mkdir()
        self._earlier = self._logins()


@contextlib.contextmanager
def running_bridges(root: Path) -> Iterator[Bridges]:
    """Run the bridges during a block, and let ssh(1) find them."""
    found = Bridges(root)
    command = found.set_up()
    with pytest.MonkeyPatch.context() as patch, subprocess.Popen(command) as server:
        patch.setenv("PATH", f"{found.binaries}:{os.environ['PATH']}")
        try:
            wait_for_server(found.port, server)
            yield found
        finally:
            server.terminate()

# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""Run ansible and ansible-playbook without a new start of Python for each run, because the start takes longer than
most tasks of the tests.

A server has imported Ansible and forks a child for each run. The child runs the class of the command as the installed
script does, therefore no run sees the state of an earlier one. Only Ansible's cache of packed modules lives as long as
the server.
"""

from __future__ import annotations

import atexit
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

#: Beginnings of the names of variables that Python or Ansible read while they start. Runs with other values of these
#: variables get another server.
READ_AT_START = ("ANSIBLE_", "HOME", "LANG", "LC_", "PYTHON", "TMPDIR", "TZ")
#: Modules that the commands import later than at their start.
IMPORTED_LATER = (
    "ansible.executor.task_queue_manager",
    "ansible.executor.playbook_executor",
    "ansible.executor.process.worker",
    "ansible.plugins.action.normal",
    "ansible.plugins.callback.default",
    "ansible.plugins.callback.minimal",
    "ansible.plugins.connection.local",
    "ansible.plugins.connection.ssh",
    "ansible.plugins.shell.sh",
    "ansible.plugins.strategy.linear",
)
#: Upper bound of a request in bytes.
REQUEST = 1 << 17


class Server:
    """A server for one environment."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._connection, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._log = tempfile.TemporaryFile()
        with other:
            self._process = subprocess.Popen(
                [sys.executable, __file__, str(other.fileno())],
                pass_fds=[other.fileno()],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=self._log,
            )
        atexit.register(self._end)

    def run(self, command: Sequence[str], environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
        request = {"command": command, "environment": dict(environment), "directory": os.getcwd()}
        with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
            files = [output.fileno(), errors.fileno()]
            try:
                socket.send_fds(self._connection, [json.dumps(request).encode()], files)
                answer = self._connection.recv(REQUEST)
            except OSError:
                answer = b""
            if not answer:
                status = self._process.wait()
                self._log.seek(0)
                raise RuntimeError(f"The server of Ansible ended with {status}: {self._log.read().decode()}")
            texts = []
            for file in (output, errors):
                file.seek(0)
                texts.append(file.read().decode())
        return subprocess.CompletedProcess(command, json.loads(answer), *texts)

    def _end(self) -> None:
        self._connection.close()
        self._process.wait()
        self._log.close()


_servers: dict[tuple[tuple[str, str], ...], Server] = {}


def run(
    command: Sequence[str | Path], *, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run ``ansible`` or ``ansible-playbook`` with the arguments, and return its output and exit code."""
    environment = os.environ if environment is None else environment
    key = tuple(sorted((name, value) for name, value in environment.items() if name.startswith(READ_AT_START)))
    if key not in _servers:
        _servers[key] = Server(environment)
    return _servers[key].run([str(word) for word in command], environment)


def serve(connection: socket.socket) -> None:
    """Run commands until the other end of the connection is closed."""
    while True:
        message, files, _flags, _address = socket.recv_fds(connection, REQUEST, 2)
        if not message:
            return
        request = json.loads(message)
        child = os.fork()
        if child == 0:
            connection.close()
            execute(request, files)
        for file in files:
            os.close(file)
        _pid, status = os.waitpid(child, 0)
        connection.send(json.dumps(os.waitstatus_to_exitcode(status)).encode())


def execute(request: dict, files: Sequence[int]) -> NoReturn:
    """Run one command in this process, with its output in the two files, and end the process."""
    code = 250
    try:
        for file, number in zip(files, (1, 2), strict=True):
            os.dup2(file, number)
            os.close(file)
        os.chdir(request["directory"])
        os.environ.clear()
        os.environ.update(request["environment"])
        sys.argv = request["command"]
        COMMANDS[Path(sys.argv[0]).name].cli_executor(sys.argv)
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    import gc
    import importlib

    from ansible.cli.adhoc import AdHocCLI
    from ansible.cli.playbook import PlaybookCLI

    COMMANDS = {"ansible": AdHocCLI, "ansible-playbook": PlaybookCLI}
    for name in IMPORTED_LATER:
        importlib.import_module(name)
    # The collector would copy the pages that the children share with this process.
    gc.freeze()
    serve(socket.socket(fileno=int(sys.argv[1])))

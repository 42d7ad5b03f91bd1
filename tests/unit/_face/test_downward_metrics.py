# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""The program of downward metrics, on libvirt's own test driver, which has no figures. tests/integration has QEMU."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._face import downward_metrics

NODE = """<node><domain type='test'><name>measured</name><memory>8192</memory><os><type>hvm</type></os>
    <devices><channel type='unix'><source mode='bind' path='{}'/><target type='virtio' name='org.github.vhostmd.1'/>
    </channel></devices></domain></node>"""

#: Upper bound of a wait in seconds.
LONGEST_WAIT = 60

Program = subprocess.Popen[str]


@pytest.fixture
def start() -> Iterator[Callable[..., Program]]:
    """Return a function that starts the program."""
    running: list[Program] = []

    def run(*options: str) -> Program:
        code = f"from {downward_metrics.__name__} import launch; launch()"
        process = subprocess.Popen([sys.executable, "-c", code, *options], stderr=subprocess.PIPE, text=True)
        running.append(process)
        return process

    yield run
    for process in running:
        process.kill()
        process.communicate()


def test_a_port_is_served_until_the_service_is_stopped(start: Callable[..., Program], tmp_path: Path) -> None:
    node, path = tmp_path / "node.xml", tmp_path / "port"
    node.write_text(NODE.format(path))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.settimeout(LONGEST_WAIT)
        listener.bind(str(path))
        listener.listen(1)
        program = start("--uri", f"test://{node}", "--directory", str(tmp_path))
        connection, _address = listener.accept()
        with connection, connection.makefile("rb") as replies:
            connection.settimeout(LONGEST_WAIT)
            connection.sendall(b"GET /metrics/XML\n\n")
            assert replies.readline().startswith(b"<metrics><!-- host metrics not available -->")
            assert replies.readline() == b"\n"
            program.send_signal(signal.SIGTERM)
            assert replies.read() == b""
        assert program.wait(LONGEST_WAIT) == 0


@pytest.mark.parametrize(
    ("options", "name"),
    [
        (["--uri", "qemu+ssh://elsewhere/system"], "elsewhere"),
        (["--host-name", "a\nb"], "--host-name"),
        (["--port", "1"], "--port"),
    ],
)
def test_invalid_options_end_the_program(start: Callable[..., Program], options: list[str], name: str) -> None:
    program = start(*options)
    assert program.wait(LONGEST_WAIT) in (1, 2)
    assert program.stderr and name in program.stderr.read()


def test_the_program_waits_for_libvirt(start: Callable[..., Program]) -> None:
    program = start("--uri", "qemu:///nowhere")
    assert program.stderr and "libvirt" in program.stderr.readline()
    program.send_signal(signal.SIGTERM)
    assert program.wait(LONGEST_WAIT) == 0

# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""Driver scripts as processes, started like a front-end starts them, but from the checkout."""

from __future__ import annotations

import base64
import contextlib
import os
import socket
import socketserver
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape
from xmlrpc.server import SimpleXMLRPCRequestHandler, SimpleXMLRPCServer

import pytest

MODULE = "ansible_collections.granary.vmstore.plugins.module_utils._face.driver_script.entry"


def encode(elements: Mapping[str, object]) -> bytes:
    """Return the encoded document with these elements, such as ``IMAGE/PATH``, for standard input."""
    tree: dict[str, dict[str, str]] = {}
    inner = {"IMAGE": "", "DATASTORE": ""}
    for path, text in elements.items():
        parent, *rest = path.split("/")
        if len(rest) == 2:
            tree.setdefault(parent, {}).setdefault(rest[0], "")
            tree[parent][rest[0]] += f"<{rest[1]}>{escape(str(text))}</{rest[1]}>"
        else:
            inner[parent] += f"<{rest[0]}>{escape(str(text))}</{rest[0]}>"
    for parent, children in tree.items():
        inner[parent] += "".join(f"<{name}>{text}</{name}>" for name, text in children.items())
    xml = "".join(f"<{name}>{text}</{name}>" for name, text in inner.items())
    return base64.b64encode(f"<DS_DRIVER_ACTION_DATA>{xml}</DS_DRIVER_ACTION_DATA>".encode())


class Scripts:
    """A front-end with its remotes and one datastore, 100, for which the files in ``files`` are permitted sources."""

    def __init__(self, root: Path) -> None:
        self.remotes = root / "one" / "var" / "remotes"
        self.files = root / "files"
        self.store = root / "datastores" / "100"
        self.files.mkdir()
        self.store.mkdir(parents=True)
        for name in ("fs", "virtiofs"):
            (self.remotes / "datastore" / name).mkdir(parents=True)

    def path(self, action: str, name: str = "fs") -> Path:
        script = self.remotes / "datastore" / name / action
        script.write_text(f"#!{sys.executable}\nfrom {MODULE} import launch\nlaunch()\n")
        script.chmod(0o755)
        return script

    def document(self, name: str = "fs", **elements: object) -> bytes:
        """Return the document of an action.

        ``I_PATH`` is IMAGE/PATH, ``D_TYPE`` is DATASTORE/TYPE. ``IT_`` and ``DT_`` are elements of their templates.
        ``None`` leaves an element out.
        """
        prefixes = {"I": "IMAGE", "IT": "IMAGE/TEMPLATE", "D": "DATASTORE", "DT": "DATASTORE/TEMPLATE"}
        given = {
            "D_ID": 100,
            "D_NAME": "x",
            "D_TYPE": 0,
            "D_TM_MAD": "ssh",
            "D_BASE_PATH": self.store,
            "I_TYPE": 0,
            **elements,
        }
        named = {
            f"{prefixes[key.partition('_')[0]]}/{key.partition('_')[2]}": value
            for key, value in given.items()
            if value is not None
        }
        return encode(named)

    def __call__(
        self,
        action: str,
        *,
        name: str = "fs",
        within: Sequence[object] = (),
        environment: Mapping[str, str] | None = None,
        **elements: object,
    ) -> subprocess.CompletedProcess[str]:
        """Run an action.

        A failed action has one line for the user in ``stderr``. All lines are in ``log``.
        """
        command = [*map(str, within), str(self.path(action, name)), "7"]
        done = subprocess.run(
            command,
            input=self.document(name, **elements).decode(),
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, **(environment or {})},
        )
        lines = [line for line in done.stderr.splitlines() if not line.startswith("INFO: ")]
        assert len(lines) == (0 if done.returncode == 0 else 1), done.stderr
        assert "Traceback" not in done.stderr
        done.log, done.stderr = done.stderr, lines[0] if lines else ""  # type: ignore[attr-defined]
        return done

    def stored(self) -> list[str]:
        """Return all files of the datastore, temporary ones too."""
        return sorted(str(path.relative_to(self.store)) for path in self.store.rglob("*"))


@pytest.fixture
def scripts(tmp_path: Path) -> Scripts:
    return Scripts(tmp_path)


@pytest.fixture
def document() -> Callable[..., bytes]:
    return encode


#: Documents that a real front-end sent to its drivers.
DOCUMENTS = Path(__file__).parent / "front_end_documents"

HOSTS = (
    "<HOST_POOL><HOST><ID>0</ID><NAME>h1</NAME><TEMPLATE><ARCH>x86_64</ARCH></TEMPLATE></HOST><HOST><ID>3</ID>"
    "<NAME>h3</NAME><TEMPLATE><REPLICA_STORAGE_IP><![CDATA[10.0.0.3]]></REPLICA_STORAGE_IP></TEMPLATE></HOST></HOST_POOL>"
)


class Handler(SimpleXMLRPCRequestHandler):
    rpc_paths = ("/RPC2",)


class FrontEndServer(SimpleXMLRPCServer):
    """A front-end. ``results`` are the arrays that its methods return, and ``calls`` are all calls."""

    def __init__(self, host: str) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__((host, 0), Handler, logRequests=False)
        self.url = f"http://{f'[{host}]' if ':' in host else 'localhost'}:{self.server_address[1]}/RPC2"
        self.calls: list[tuple[str, tuple[Any, ...]]] = []
        self.results: dict[str, Any] = {
            "one.vm.info": [True, (DOCUMENTS / "vm-migrated.xml").read_text(), 0],
            "one.datastore.info": [True, (DOCUMENTS / "datastore-system.xml").read_text(), 0],
            "one.hostpool.info": [True, HOSTS, 0],
        }

    def _dispatch(self, method: str, params: Any) -> Any:
        self.calls.append((method, tuple(params)))
        return self.results[method]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print nothing about a client that refuses the certificate."""


@contextlib.contextmanager
def serve(server: socketserver.BaseServer) -> Iterator[None]:
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def served() -> Callable[[socketserver.BaseServer], contextlib.AbstractContextManager[None]]:
    """Let a server serve during a block."""
    return serve


@pytest.fixture
def server() -> Iterator[FrontEndServer]:
    server = FrontEndServer("127.0.0.1")
    with serve(server):
        yield server


@pytest.fixture
def ipv6_server() -> Iterator[FrontEndServer]:
    server = FrontEndServer("::1")
    with serve(server):
        yield server

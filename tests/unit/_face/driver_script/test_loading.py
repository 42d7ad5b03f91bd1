# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""Modules that an action loads, because loading them would take most of its time."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._face.driver_script import entry, front_end
from ansible_collections.granary.vmstore.plugins.module_utils._remote.engine import engine_sources
from ansible_collections.granary.vmstore.plugins.module_utils._service.drivers.monitor_script import monitor_script

NAME = "0123456789abcdef0123456789abcdef"

#: Modules of the standard library that are slow to load, or load slow ones, and that no common action needs.
SLOW = frozenset(
    [
        *(
            "argparse",
            "ast",
            "asyncio",
            "copy",
            "ctypes",
            "dataclasses",
            "datetime",
            "email",
            "enum",
            "glob",
            "hashlib",
            "http",
            "importlib.metadata",
            "inspect",
        ),
        *(
            "json",
            "locale",
            "logging",
            "multiprocessing",
            "pathlib",
            "pickle",
            "random",
            "re",
            "selectors",
            "shlex",
            "shutil",
            "signal",
            "socket",
            "sqlite3",
        ),
        *(
            "ssl",
            "statistics",
            "string",
            "subprocess",
            "tempfile",
            "threading",
            "traceback",
            "typing",
            "urllib",
            "uuid",
            "weakref",
            "xml.etree",
            "zipfile",
        ),
    ]
)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the engine as installed by the role, with the facts of transfer actions."""
    root = tmp_path_factory.mktemp("library")
    for name, source in {**engine_sources(entry.__name__), **engine_sources(front_end.__name__)}.items():
        path = root / "granary_vmstore" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
    return root


def find_loaded(command: list[Any], stdin: str = "") -> set[str]:
    """Run Python, and return the loaded modules other than those of Python's own start."""
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    own = subprocess.run(
        [sys.executable, "-ISXutf8", "-X", "importtime", "-c", "pass"], capture_output=True, text=True, check=True
    )
    found, before = (
        set(re.findall(r"^import time: +\d+ \| +\d+ \| +(\S+)$", log, re.MULTILINE))
        for log in (done.stderr, own.stderr)
    )
    return found - before


@pytest.fixture
def loaded(engine: Path, scripts: Any) -> Callable[..., set[str]]:
    """Run an action, and return the loaded modules other than those of Python's own start."""

    def run(action: str, name: str, **elements: object) -> set[str]:
        script = scripts.remotes / "datastore" / name / action
        script.write_text(
            f"import sys\nsys.path.insert(0, {str(engine)!r})\nfrom granary_vmstore._face.driver_script.entry import "
            "launch\nlaunch()\n"
        )
        command = [sys.executable, "-ISXutf8", "-X", "importtime", script, "7"]
        found = find_loaded(command, scripts.document(name, **elements).decode())
        assert "granary_vmstore._face.driver_script.entry" in found
        return found

    return run


def elements_of(action: str, name: str, scripts: Any) -> dict[str, object]:
    (scripts.files / "raw").write_bytes(b"\xeb\x63\x90" + bytes(range(256)) * 4096)
    (scripts.store / NAME).write_bytes(b"image")
    configuration = scripts.remotes / "etc" / "datastore" / "datastore.conf"
    configuration.parent.mkdir(parents=True)
    configuration.write_text(
        '# Comments\n\nSUPPORTED_FS="ext4, xfs"\nexport FS_OPTS_EXT4=-F\nQCOW2_OPTIONS=lazy_refcounts=on\n'
    )
    if name == "virtiofs":
        source = {
            "cp": {"I_PATH": scripts.files},
            "stat": {"I_PATH": scripts.files},
            "rm": {"I_SOURCE": scripts.files},
            "monitor": {},
        }
        return {"I_TYPE": 7, "D_TM_MAD": "virtiofs", "DT_SAFE_DIRS": scripts.files, **source[action]}
    stored = {"I_SOURCE": scripts.store / NAME, "I_PATH": scripts.store / NAME, "I_FORMAT": "raw", "I_SIZE": 1}
    return {
        "DT_SAFE_DIRS": scripts.files,
        **({"I_PATH": scripts.files / "raw"} if action in ("cp", "stat") else stored),
    }


@pytest.mark.parametrize(
    ("action", "name"),
    [
        *((action, "fs") for action in ("clone", "cp", "mkfs", "monitor", "rm", "stat")),
        *((action, "virtiofs") for action in ("cp", "monitor", "rm", "stat")),
    ],
)
def test_a_common_action_loads_nothing_slow(
    loaded: Callable[..., set[str]], scripts: Any, action: str, name: str
) -> None:
    found = loaded(action, name, **elements_of(action, name, scripts))
    assert {one for one in found if any(one == slow or one.startswith(f"{slow}.") for slow in SLOW)} == set()


@pytest.mark.parametrize("action", ["monitor", "rm"])
def test_an_action_that_has_nothing_to_do_loads_next_to_nothing(
    loaded: Callable[..., set[str]], scripts: Any, action: str
) -> None:
    found = loaded(action, "virtiofs", **elements_of(action, "virtiofs", scripts))
    assert found.isdisjoint(
        {"collections", "contextlib", "functools", "granary_vmstore._core.command", "granary_vmstore._host.directory"}
    )


FACTS = """
import sys
sys.path.insert(0, sys.argv[1])
from granary_vmstore._face.driver_script.front_end import FrontEnd
FrontEnd({"ONE_XMLRPC": sys.argv[2], "ONE_AUTH": sys.argv[3]}).vm(10).disk(0)
"""


def test_facts_of_a_front_end_load_nothing_slow(engine: Path, server: Any, tmp_path: Path) -> None:
    (tmp_path / "auth").write_text("oneadmin:password")
    command = [sys.executable, "-ISXutf8", "-X", "importtime", "-c", FACTS, engine, server.url, tmp_path / "auth"]
    found = find_loaded(command)
    assert server.calls
    assert {one for one in found if any(one == slow or one.startswith(f"{slow}.") for slow in SLOW)} == set()
    assert "encodings.idna" not in found


def test_the_script_of_hosts_loads_few_modules(tmp_path: Path) -> None:
    """A host starts the script at each monitoring cycle, and has no engine."""
    (script := tmp_path / "monitor_ds").write_bytes(monitor_script(engine_sources(entry.__name__)))
    found = find_loaded([sys.executable, "-ISXutf8", "-X", "importtime", script, tmp_path])
    assert "binascii" in found
    assert len(found) < 20 and not found & SLOW and not [name for name in found if name.startswith("granary")]

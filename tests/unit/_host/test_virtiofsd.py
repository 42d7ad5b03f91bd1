# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
import os
from pathlib import Path

from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import CommandFailed, InvalidInput
from ansible_collections.granary.vmstore.plugins.module_utils._host.virtiofsd.program import (
    find_daemon,
    find_described_daemon,
    last_words,
)
from refusal import refused


def program(path: Path, text: str) -> str:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return str(path)


def test_what_a_daemon_can_do_is_read_from_its_help(tmp_path: Path) -> None:
    path = program(tmp_path / "it's here", "#!/bin/sh\necho '      --uid-map <UID_MAP>'\n")
    found = find_daemon(path)
    assert (found.path, found.is_wrapper, found.can_map, found.can_read_only) == (path, True, True, False)
    found = find_daemon("/bin/true")
    assert (found.is_wrapper, found.can_map, found.can_read_only) == (False, False, False)


def test_a_daemon_that_does_not_run_says_why(tmp_path: Path) -> None:
    with refused(CommandFailed, says=f"The command '{tmp_path}/wrapper' failed with exit code 1: newuidmap is missing"):
        find_daemon(program(tmp_path / "wrapper", "#!/bin/sh\necho newuidmap is missing >&2; exit 1\n"))
    for path in (str(tmp_path), "/etc/passwd", "/no/such/file"):
        with refused(
            InvalidInput,
            says=f"binary: '{path}' is not accepted: the path of an executable file on this host is expected.",
        ):
            find_daemon(path)
    with refused(InvalidInput, option="binary", value="virtiofsd"):
        find_daemon("virtiofsd")


def test_libvirts_choice_is_the_first_description_and_etc_hides_its_namesake(tmp_path: Path) -> None:
    usr, etc = tmp_path / "usr", tmp_path / "etc"
    first, second = program(tmp_path / "bin" / "first", ""), program(tmp_path / "bin" / "second", "")
    for directory, name, content in (
        (usr, "10-gpu.json", json.dumps({"type": "gpu", "binary": second})),
        (usr, "20-broken.json", "{"),
        (usr, "30-gone.json", json.dumps({"type": "fs", "binary": "/no/such"})),
        (usr, "50-virtiofsd.json", json.dumps({"type": "fs", "binary": first})),
    ):
        directory.mkdir(exist_ok=True)
        (directory / name).write_text(content)
    assert find_described_daemon([str(usr), str(etc)]) == first
    etc.mkdir()
    (etc / "50-virtiofsd.json").write_text(json.dumps({"type": "fs", "binary": second}))
    assert find_described_daemon([str(usr), str(etc)]) == second
    assert find_described_daemon([str(tmp_path / "none")]) is None


def test_the_last_words_are_of_this_domain_and_of_now(tmp_path: Path) -> None:
    for name, words, age in (("a-fs0", "old", 100), ("a-fs1", "first\nlast\n", 0), ("b-fs0", "other", 0)):
        path = tmp_path / f"{name}-virtiofsd.log"
        path.write_text(words)
        os.utime(path, (1000 - age, 1000 - age))
    assert last_words("a", 950, str(tmp_path)) == "last"
    assert last_words("a", 2000, str(tmp_path)) is None
    assert last_words("[ab]", 0, str(tmp_path)) is None

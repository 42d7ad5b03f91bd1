# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""Run the modules of the front-end with Ansible on this machine, with a catalog of the test's own."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import ansible_process
import pytest


@dataclass
class FrontEnd:
    """A front-end: ``directory`` holds the catalog, ``data`` the source files of images.

    ``enter`` is a command prefix, for example ``unshare``.
    """

    directory: Path
    enter: tuple[str, ...] = ()

    @property
    def catalog(self) -> Path:
        return self.directory / "catalog" / "catalog.sqlite"

    @property
    def data(self) -> Path:
        return self.directory / "data"

    def run_all(self, *tasks: tuple[str, dict]) -> list[dict]:
        """Run (module, options) in turn as one playbook, and return the results.

        The option ``check`` enables check mode. Every result has ``failed``.
        """
        playbook, answers = self.directory / "playbook.json", self.directory / "answers.json"
        plays = []
        for number, (module, options) in enumerate(tasks):
            given = {"catalog": str(self.catalog), **options}
            check = given.pop("check", False)
            plays.append(
                {
                    f"granary.vmstore.{module}": given,
                    "register": f"answer_{number}",
                    "ignore_errors": True,
                    "check_mode": check,
                    "diff": True,
                }
            )
        listed = ", ".join(f"answer_{number}" for number in range(len(tasks)))
        plays.append(
            {
                "ansible.builtin.copy": {
                    "content": "{{ [" + listed + "] | to_json }}",
                    "dest": str(answers),
                    "mode": "0600",
                }
            }
        )
        playbook.write_text(json.dumps([{"hosts": "localhost", "gather_facts": False, "tasks": plays}]))
        command = [str(Path(sys.executable).with_name("ansible-playbook")), "-i", "localhost,", "-c", "local"]
        command += ["-e", f"ansible_python_interpreter={sys.executable}", str(playbook)]
        answers.unlink(missing_ok=True)
        if self.enter:
            done = subprocess.run([*self.enter, *command], capture_output=True, text=True, check=False)
        else:
            done = ansible_process.run(command)
        assert "Traceback" not in done.stdout + done.stderr
        assert answers.exists(), done.stdout + done.stderr
        return [{"failed": False, **answer} for answer in json.loads(answers.read_text())]

    def run(self, module: str, **options: object) -> dict:
        return self.run_all((module, options))[0]

    def four(self, module: str, **options: object) -> list[dict]:
        """Run tasks twice in check mode and twice for real, and require changed, changed, ok, ok.

        The order is check mode, real run, real run, check mode.
        """
        results = self.run_all(*((module, {**options, "check": check}) for check in (True, False, False, True)))
        assert [(result["failed"], result["changed"]) for result in results] == [
            (False, True),
            (False, True),
            (False, False),
            (False, False),
        ], results
        assert results[0]["actions"] == results[1]["actions"]
        return results

    def failures(self, *tasks: tuple[str, dict]) -> list[dict]:
        """Return the results of runs that must all fail and leave the catalog unchanged."""
        before = self.dump()
        results = self.run_all(*tasks)
        assert [result["failed"] for result in results] == [True] * len(tasks), results
        assert self.dump() == before
        assert all(result["msg"].isprintable() for result in results)
        return results

    def query(self, statement: str) -> list[tuple]:
        """Return the rows that SQLite itself finds in the catalog."""
        with contextlib.closing(sqlite3.connect(self.catalog)) as connection:
            return connection.execute(statement).fetchall()

    def dump(self) -> list[str]:
        if not self.catalog.exists():
            return []
        with contextlib.closing(sqlite3.connect(self.catalog)) as connection:
            return list(connection.iterdump())


@pytest.fixture
def front_end(tmp_path: Path) -> FrontEnd:
    found = FrontEnd(tmp_path)
    found.catalog.parent.mkdir()
    found.data.mkdir()
    return found


@pytest.fixture
def virtiofs(front_end: FrontEnd) -> FrontEnd:
    """Return a front-end with the virtiofs datastore 100, ``fs``."""
    assert front_end.run("datastore", name="fs", ds_driver="virtiofs", tm_driver="virtiofs")["datastore"]["id"] == 100
    return front_end

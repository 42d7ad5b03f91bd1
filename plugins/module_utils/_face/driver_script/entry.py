# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The commands that a front-end runs: ``<remotes>/datastore/<ds_mad>/<action>`` and ``<remotes>/tm/<tm_mad>/<action>``
(spec: storage-driver).

A process runs one action, so each action imports only the modules that it needs.
"""

from __future__ import annotations

import os
import sys

from ..._core.descriptors import open_standard_descriptors
from ..._core.errors import UnsupportedAction, VmstoreError, os_errors
from ..._core.records import TYPE_CHECKING
from ..._core.signals import SIGTERM, signal
from ..._driver.datastore.registry import DATASTORE_DRIVERS
from ..._driver.info import CONTRACT_ACTIONS
from .output import as_line, write_line

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import IO


def run(argv: Sequence[str], stdin: IO[bytes]) -> None:
    """Run the action that the path of the script names.

    :arg argv: the script and its arguments.
    :raises VmstoreError: the action failed and changed nothing.
    """
    directory, action = os.path.split(os.path.abspath(argv[0]))
    directory, mad = os.path.split(directory)
    remotes, kind = os.path.split(directory)
    if kind == "tm" and action == "monitor":
        from .monitor_action import run_monitor

        run_monitor(remotes, mad, argv[1:], stdin)
    elif kind == "tm":
        from .transfer_action import run_transfer

        run_transfer(remotes, mad, action, argv[1:], stdin)
    else:
        _run_datastore(remotes, mad, action, stdin)


def _run_datastore(remotes: str, mad: str, action: str, stdin: IO[bytes]) -> None:
    from .datastore_action import DatastoreAction
    from .document import read_document

    if action not in CONTRACT_ACTIONS:
        raise UnsupportedAction(
            f"There is no action {action!r}: the script's name has to be one of {', '.join(CONTRACT_ACTIONS)}."
        )
    if mad not in DATASTORE_DRIVERS:
        raise UnsupportedAction(
            f"There is no datastore driver {mad!r}: the name of the script's directory has to be "
            f"{' or '.join(DATASTORE_DRIVERS)}."
        )
    with os_errors("read the document on standard input"):
        document = read_document(stdin)
    getattr(DatastoreAction(remotes, mad, document), action)()


def _terminate(number: int, _frame: object) -> None:
    # The exception runs the cleanup of the action.
    raise SystemExit(128 + number)


def main(argv: Sequence[str], stdin: IO[bytes]) -> int:
    """Run the action that ``argv[0]`` names, and return the exit code."""
    signal(SIGTERM, _terminate)
    try:
        run(argv, stdin)
        return 0
    except VmstoreError as error:
        message = str(error)
    except KeyboardInterrupt:
        message = "The action was interrupted."
    except Exception as error:  # pylint: disable=broad-except  # a traceback would become the user's message
        message = f"The action failed: {type(error).__name__}: {error}"
    write_line(as_line(message))
    return 1


def launch() -> None:
    open_standard_descriptors()
    # All files are written and closed. The kernel frees the memory faster than the interpreter.
    os._exit(main(sys.argv, open(0, "rb", closefd=False)))


__all__ = ["launch", "main", "run"]

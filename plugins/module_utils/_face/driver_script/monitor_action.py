# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The action ``monitor`` of a transfer driver: ``<remotes>/tm/<tm_mad>/monitor <ds_id>`` (spec: storage-driver, "The
Monitoring Process").

The capacity of a shared system datastore goes to standard output. If the front-end requests it, the storage of the VMs'
disks goes to the monitor daemon of the front-end.
"""

from __future__ import annotations

import os

from ..._core.digits import is_decimal
from ..._core.errors import InvalidInput, UnsupportedAction, VmstoreError, os_errors, printable
from ..._core.records import TYPE_CHECKING
from ..._driver.transfer.registry import MONITORED_BY_HOSTS, is_for_system_datastores
from .datastore_action import MONITOR_TIMEOUT, DatastoreAction
from .document import Document, read_xml
from .output import log

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import IO

#: Bytes of one read.
CHUNK = 1 << 16

#: Upper bound of the decimal digits of a datastore's id.
LONGEST_ID = 10


def run_monitor(remotes: str, mad: str, arguments: Sequence[str], stdin: IO[bytes]) -> None:
    """Monitor a system datastore.

    :arg remotes: the front-end's directory of remotes.
    :raises VmstoreError: the capacity can't be read.
    """
    if not is_for_system_datastores(mad):
        raise UnsupportedAction(f"monitor is not supported by the transfer driver {mad}: no system datastore has it.")
    if len(arguments) != 1 or not is_decimal(arguments[0], LONGEST_ID):
        raise InvalidInput("arguments", " ".join(arguments), "monitor ds_id is expected")
    with os_errors("read the document on standard input"):
        if mad in MONITORED_BY_HOSTS:
            while stdin.read(CHUNK):  # a front-end that can't write its document would report a failure
                pass
            return
        xml = read_xml(stdin)
    document = Document(xml)
    with_disks = bool(document.find_number("MONITOR_VM_DISKS"))
    action = DatastoreAction(remotes, None, document)
    action.monitor()
    if with_disks:
        _report_disks(action)


def _report_disks(action: DatastoreAction) -> None:
    """Send the storage of the disks to the monitor daemon. A failure is only logged, because the capacity is known."""
    from .monitor_daemon import find_daemon

    try:
        daemon = find_daemon(os.environ)
        if daemon is None:
            return
        try:
            usage = action.make_driver(timeout=MONITOR_TIMEOUT).vm_usage()
        except VmstoreError as error:
            daemon.send_failure(str(error))
            raise
        failed = [f"{one.vm} ({printable(one.error)})" for one in usage if one.error is not None]
        if failed:
            from ..._image.vm_usage import describe_failures

            log(describe_failures(action.datastore.base_path, failed))
        daemon.send_usage([one for one in usage if one.disks])
    except VmstoreError as error:
        log(f"The disks of VMs are not reported: {error}")


__all__ = ["run_monitor"]

# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The program that gives guests the metrics of their host (role ``downward_metrics``).

One thread collects and writes disks. The main thread serves the ports. So neither a guest nor libvirt delays the other.
"""

from __future__ import annotations

import argparse
import functools
import os
import socket
import sys
import threading
from collections.abc import Sequence
from signal import SIGINT, SIGTERM, signal

from .._core.descriptors import open_standard_descriptors
from .._core.errors import InvalidInput, VmstoreError
from .._host.metrics.disks import MetricsDisks
from .._host.metrics.port_server import PortServer
from .._libvirt.connection import DEFAULT_URI, check_local, load_libvirt
from .._libvirt.metrics_source import MetricsSource
from .._model.metrics import METRICS_DIRECTORY
from .._service.metrics.collector import Collector

#: Time for the last update at the end of the program, in seconds.
LAST_UPDATE = 5.0


def log(line: str) -> None:
    """Write a line to the log of the service."""
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def parse_options(argv: Sequence[str]) -> argparse.Namespace:
    """Return the options of the command line.

    :raises InvalidInput: an option is invalid.
    """
    parser = argparse.ArgumentParser(description="Give guests the metrics of their host, in the format of vhostmd(8).")
    parser.add_argument("--uri", default=DEFAULT_URI, help="URI of this host's libvirt (%(default)s)")
    parser.add_argument("--directory", default=METRICS_DIRECTORY, help="directory of the disks (%(default)s)")
    parser.add_argument("--host-name", default="", help="name of this host for guests (the name of the machine)")
    options = parser.parse_args(argv)
    options.uri = check_local(options.uri)
    options.host_name = options.host_name or socket.gethostname()
    if not options.host_name.isprintable():
        raise InvalidInput("--host-name", options.host_name, "a name without control characters is expected")
    return options


def run(options: argparse.Namespace) -> bool:
    """Serve until SIGTERM, and return whether the program ended without a defect."""
    server = PortServer(log)
    connect = functools.partial(MetricsSource, options.uri, options.directory)
    collector = Collector(connect, MetricsDisks(options.directory, log), server, options.host_name, log)
    for number in (SIGINT, SIGTERM):
        signal(number, lambda *unused: server.stop())
    defects: list[BaseException] = []
    thread = threading.Thread(target=_collect, args=(collector, server, defects), name="collector", daemon=True)
    thread.start()
    server.run()
    collector.stop()
    thread.join(LAST_UPDATE)
    return not defects


def _collect(collector: Collector, server: PortServer, defects: list[BaseException]) -> None:
    """Collect. After a defect, the whole program ends, so that the service is started again."""
    try:
        collector.run()
    except BaseException as error:
        defects.append(error)
        raise
    finally:
        server.stop()


def main(argv: Sequence[str]) -> int:
    """Run the program, and return the exit code."""
    try:
        options = parse_options(argv)
        load_libvirt()
    except VmstoreError as error:
        log(str(error))
        return 1
    return 0 if run(options) else 1


def launch() -> None:
    open_standard_descriptors()
    # The thread of libvirt's events never ends.
    os._exit(main(sys.argv[1:]))


__all__ = ["launch", "main"]

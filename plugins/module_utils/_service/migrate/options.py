# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The options of the module vm_migrate."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..._core.arguments import ArgumentSpec
from ..._core.errors import InvalidInput
from ..._core.records import dataclass
from ..._model.names import check_host
from ..catalog import CATALOG_OPTIONS

#: Upper bound of the time of a migration in seconds: a week.
LONGEST_TIMEOUT = 7 * 86400

#: Upper bound of the bandwidth in MiB/s. libvirt accepts no more.
LARGEST_BANDWIDTH = 1 << 20

VM_MIGRATE_SPEC = ArgumentSpec(
    {
        "vm": {"type": "str", "required": True},
        "host": {"type": "str", "required": True},
        "mode": {"type": "str", "choices": ["auto", "live", "cold"], "default": "auto"},
        "timeout": {"type": "int", "default": 3600},
        "bandwidth": {"type": "int"},
        "auto_converge": {"type": "bool", "default": False},
    }
).merge(CATALOG_OPTIONS)


@dataclass(frozen=True)
class MigrateSpec:
    """The desired host of a VM.

    :arg reference: name or id of the VM.
    :arg bandwidth: upper bound in MiB/s. 0 sets no bound.
    """

    reference: str
    host: str
    mode: str
    timeout: int
    bandwidth: int
    auto_converge: bool


def parse_migrate(options: Mapping[str, Any]) -> MigrateSpec:
    """Return the options after a check.

    :raises InvalidInput: an option has a value that is not accepted.
    """
    bandwidth = options["bandwidth"]
    if not 1 <= options["timeout"] <= LONGEST_TIMEOUT:
        raise InvalidInput("timeout", options["timeout"], f"1 to {LONGEST_TIMEOUT} seconds are expected")
    if bandwidth is not None and not 1 <= bandwidth <= LARGEST_BANDWIDTH:
        raise InvalidInput("bandwidth", bandwidth, f"1 to {LARGEST_BANDWIDTH} MiB/s are expected")
    return MigrateSpec(
        options["vm"],
        check_host("host", options["host"]),
        options["mode"],
        options["timeout"],
        bandwidth or 0,
        options["auto_converge"],
    )


__all__ = ["VM_MIGRATE_SPEC", "MigrateSpec", "parse_migrate"]

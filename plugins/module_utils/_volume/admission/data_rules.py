# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Rules for the content of config maps, secrets and service accounts."""

from __future__ import annotations

import re

from ..._core.problems import Problems
from ..._model.domain_volumes import DomainVolumes
from ..._model.volume_sources import KeyedData

#: A key (Kubernetes), which is the name of a file. It is no hidden directory of Kubernetes, such as ``..data``.
KEY = re.compile(r"(?!\.\.|\.$)[A-Za-z0-9._-]{1,253}")


def admit_data(problems: Problems, spec: DomainVolumes) -> None:
    """Add a problem for each rule that the content for volumes breaks."""
    for option in ("config_maps", "secrets", "service_accounts"):
        for name, data in getattr(spec, option).items():
            _admit(problems, f"{option}[{name!r}]", data)


def _admit(problems: Problems, path: str, data: KeyedData) -> None:
    if data.directory is not None and data.data:
        problems.add("data_and_directory", path, "data and directory", "one of the two is expected")
    if data.directory is not None and not data.directory.startswith("/"):
        problems.add("data_directory", f"{path}.directory", data.directory, "an absolute path is expected")
    for key in data.data:
        if KEY.fullmatch(key) is None:
            problems.add(
                "data_key", path, key, "a key of letters, digits and '_.-' is expected, because it is a file name"
            )


__all__ = ["KEY", "admit_data"]

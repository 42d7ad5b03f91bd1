# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The script ``monitor_ds`` of a transfer driver (spec: storage-driver, "The monitor_ds script").

A front-end copies the script to its hosts, where the engine isn't installed. So the script is the source of one module,
which needs only Python's standard library.
"""

from __future__ import annotations

from collections.abc import Mapping

from ..._image import vm_usage
from ..._remote.engine import path_in_engine
from .kept_scripts import MARK

#: Name of the script.
MONITOR_SCRIPT = "monitor_ds"

#: The script. The Python of a host can be in another place than that of the front-end. A process ends faster without
#: freeing its memory.
TEXT = """\
#!/usr/bin/python3 -ISXutf8
{mark}
{source}

import sys

os._exit(main(sys.argv[1:]))
"""


def monitor_script(sources: Mapping[str, str]) -> bytes:
    """Return the script.

    :arg sources: the engine's files, by their paths in it.
    """
    source = sources[f"{path_in_engine(vm_usage.__name__).replace('.', '/')}.py"]
    return TEXT.format(mark=MARK, source=source).encode()


__all__ = ["MONITOR_SCRIPT", "monitor_script"]

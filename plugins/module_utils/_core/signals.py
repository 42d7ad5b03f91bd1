# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The signals that every action uses, as plain numbers. The module ``signal`` loads ``enum`` to name the numbers
(:mod:`.records` has the rule).
"""

from __future__ import annotations

from .records import TYPE_CHECKING

if TYPE_CHECKING:
    from signal import SIGKILL, SIGPIPE, SIGTERM, SIGXFSZ, signal
else:
    try:
        from _signal import SIGKILL, SIGPIPE, SIGTERM, SIGXFSZ, signal
    except ImportError:  # a Python other than CPython
        from signal import SIGKILL, SIGPIPE, SIGTERM, SIGXFSZ, signal

__all__ = ["SIGKILL", "SIGPIPE", "SIGTERM", "SIGXFSZ", "signal"]

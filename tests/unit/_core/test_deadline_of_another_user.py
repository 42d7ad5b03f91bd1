# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import subprocess
import sys

from ansible_collections.granary.vmstore.plugins.module_utils._core import deadline


def test_a_process_that_cannot_be_started_is_the_error_of_its_function() -> None:
    program = f"""
import os, resource
from {deadline.__name__} import run_all_with_deadline
os.setgid(61003); os.setuid(61003)
resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))
for found in run_all_with_deadline(60, "Reading {{}}", {{"a": os.getpid, "b": os.getpid}}).values():
    print(type(found).__name__)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["FileAccessFailed", "FileAccessFailed"]

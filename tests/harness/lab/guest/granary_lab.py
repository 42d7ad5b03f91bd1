# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""Keep the compiled code of modules in zip archives, as Python does for modules in directories.

Ansible sends each of its modules as an archive of sources, which Python compiles twice for each import. This takes an
emulated guest more than a second, half of a module's time.
"""

import _imp
import marshal
import os
import zipimport

#: Only root can write here, and modules also run as other users.
CACHE = "/var/cache/granary-lab-python"


# The functions are private to CPython, and the same from 3.9 on.
_compile = vars(zipimport)["_compile_source"]
_fix_file_name = vars(_imp)["_fix_co_filename"]


def compile_source(path, source):
    name = f"{CACHE}/{_imp.source_hash(0, source).hex()}-{len(source)}"
    try:
        with open(name, "rb") as file:
            code = marshal.load(file)
        _fix_file_name(code, path)
        return code
    except OSError:
        code = _compile(path, source)
    temporary = f"{name}.{os.getpid()}"
    try:
        os.makedirs(CACHE, exist_ok=True)
        with open(temporary, "wb") as file:
            marshal.dump(code, file)
        os.rename(temporary, name)
    except OSError:
        pass
    return code


vars(zipimport)["_compile_source"] = compile_source

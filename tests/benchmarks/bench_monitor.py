# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""Measure the action monitor of a datastore with 10,000 images.

The floors are the action with an empty datastore, because monitor must not count the images one by one, and ``stat
-f``.
"""

from __future__ import annotations

import argparse

from measuring import FrontEnd, Row, build_document, format_table, interleave, make_directory, measure_time, run


def main() -> None:
    parser = argparse.ArgumentParser(description="Measures the action monitor.")
    parser.add_argument("--runs", type=int, default=21)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--directory", default="/var/tmp")
    options = parser.parse_args()
    with make_directory(options.directory) as directory:
        front_end = FrontEnd(directory)
        stores = {name: directory / name for name in ("full", "empty")}
        for store in stores.values():
            store.mkdir()
        for number in range(options.images):
            (stores["full"] / f"{number:032x}").touch()
        script = front_end.script("monitor")
        documents = {name: build_document(store, {}) for name, store in stores.items()}
        works = {
            name: lambda stdin=stdin: measure_time(lambda: run(script, stdin)) for name, stdin in documents.items()
        }
        works["stat"] = lambda: measure_time(lambda: run(["stat", "--file-system", stores["full"]]))
        found = interleave(options.runs, works)
    what = f"monitor, {options.images:,} images"
    print(
        format_table(
            [
                Row(what, found["full"], "monitor, no image", found["empty"], target=1.2),
                Row(what, found["full"], "stat --file-system", found["stat"]),
            ]
        )
    )


if __name__ == "__main__":
    main()

"""The command ``pajamas``: the program that the wheel carries, in place of this process."""

from __future__ import annotations

import os
import sys

from ._installation import BUNDLE


def main() -> int:
    program = BUNDLE / "bin" / ("pajamas.exe" if os.name == "nt" else "pajamas")
    if not program.is_file():
        print(f"error: `{program}` is missing\nhint: reinstall the package: `pip install --force-reinstall pajamas`", file=sys.stderr)
        return 1
    os.execv(program, [str(program), *sys.argv[1:]])

"""The `syncline` command. Its commands need the extra "server"; this says so where it is missing, and what an
error is in one sentence.

It exits with 0 when it did what it was told, 1 when that failed or something wrong was found, and 2 when it
was called wrongly.
"""

from __future__ import annotations

import os
import sys

__all__ = ["main"]

_NEEDED = {"typer", "rich", "uvicorn", "click"}


def main() -> None:
    """Runs the command line and exits."""
    if sys.argv[1:] == ["--version"]:
        from .. import __version__

        print(__version__)
        return
    try:
        from .app import run

        status = run()
    except ModuleNotFoundError as missing:
        if missing.name is None or missing.name.partition(".")[0] not in _NEEDED:
            raise
        if sys.argv[1:] == ["version"]:
            from .. import __version__

            print(__version__)
            return
        print(
            f"The syncline command needs {missing.name}, which is missing: pip install 'syncline[server]'",
            file=sys.stderr,
        )
        status = 1
    except KeyboardInterrupt:
        status = 130
    except BrokenPipeError:
        # Whoever read it has seen enough; Python must not complain of it again at its exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 0
    sys.exit(status)

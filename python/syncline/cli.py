"""The `syncline` command. What it does is in `syncline.serve`, which needs the extra "server"; this says so
where it is missing."""

from __future__ import annotations

import sys

__all__ = ["main"]

_NEEDED = {"typer", "rich", "uvicorn", "click"}


def main() -> None:
    """Runs the command line and exits: 0 done, 1 failed, 2 called wrongly."""
    try:
        from .serve import commands
    except ModuleNotFoundError as missing:
        if missing.name is None or missing.name.partition(".")[0] not in _NEEDED:
            raise
        if sys.argv[1:] in (["version"], ["--version"]):
            from . import __version__

            print(__version__)
            return
        print(
            f"The syncline command needs {missing.name}, which is missing: pip install 'syncline[server]'",
            file=sys.stderr,
        )
        sys.exit(1)
    commands(prog_name="syncline")


if __name__ == "__main__":
    main()

"""All commands of `syncline` together."""

from __future__ import annotations

import sys

import typer

from .. import errors
from . import demo, keeping, letters, reading, serve, transfer
from .common import complain

commands = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich" if sys.stdout.isatty() else None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Serves a Syncline engine over HTTP, and shows and keeps its database. Reading commands may run "
    "beside the server; those that write go to it with --url, or to a file that nobody serves.",
    epilog="Exit status: 0 done, 1 failed or something wrong was found, 2 called wrongly.",
)
serve.add_to(commands)
reading.add_to(commands)
keeping.add_to(commands)
letters.add_to(commands)
transfer.add_to(commands)
demo.add_to(commands)

# What was asked for is not there, or cannot be so: the call was wrong, the database is not.
_WRONG_CALL = (errors.InvalidRequest, errors.InvalidScope, errors.UsageError, errors.InvalidMutation)


def run() -> int:
    """Runs the command of this process; returns its exit status."""
    try:
        commands(prog_name="syncline")
    except errors.Error as error:
        complain(str(error))
        return 2 if isinstance(error, _WRONG_CALL) else 1
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    return 0

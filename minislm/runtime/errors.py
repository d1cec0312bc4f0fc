"""Errors that a user can correct, each one line, and exit codes."""

import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

_LONGEST = 600  # characters of a message


class UserError(Exception):
    """A mistake of the user; the message has what is wrong, where, and what to do.
    It is one printable line of bounded length, whatever a damaged file has put into it."""

    def __init__(self, message: str):
        line = " ".join(message.split())
        if len(line) > _LONGEST:
            line = f"{line[: _LONGEST // 2]} ... {line[-_LONGEST // 2 :]}"
        super().__init__("".join(c if c.isprintable() else ascii(c)[1:-1] for c in line))


class CheckpointError(UserError):
    """A model folder or weight file that cannot be used; names the file and, if any, the tensor."""


def run_script(main: Callable[[], None]) -> None:
    """Run a script's `main` and end the process with the exit code of its outcome."""
    for name, flags in (("stdin", os.O_WRONLY), ("stdout", os.O_RDONLY), ("stderr", os.O_RDONLY)):
        if getattr(sys, name) is None:  # closed: its use fails, and no file gets its number
            number = os.open(os.devnull, flags)
            setattr(sys, name, open(number, "r" if name == "stdin" else "w"))
    _drop_errors(sys.stdout)
    _drop_errors(sys.stderr)
    try:
        main()
        sys.stdout.flush()
        error = getattr(sys.stdout, "error", None)
        if error and not isinstance(error, BrokenPipeError):  # of a reader (head, less) that ended
            with suppress(OSError):
                sys.stdout.close()  # else Python 3.14 reports the error again at the end
            raise UserError(f"cannot print: {error.strerror}")
    except UserError as error:
        log(f"error: {error}")
        sys.exit(2)
    except KeyboardInterrupt as error:  # its argument is the signal, if it was not Ctrl-C
        log("interrupted")
        sys.exit(128 + (*error.args, signal.SIGINT)[0])


def log(line: str) -> None:
    """Print progress and errors to stderr; of several processes, the first one prints."""
    if os.environ.get("RANK", "0") == "0" or "WORLD_SIZE" not in os.environ:
        print(line, file=sys.stderr, flush=True)


def _drop_errors(stream: Any) -> None:
    """Let a stream drop what it cannot print, and keep the error, which ends nothing."""

    def tried(method: Callable, *arguments: str) -> Any:
        try:
            return method(*arguments)
        except OSError as error:
            stream.error = error

    if hasattr(stream, "reconfigure"):
        stream.reconfigure(errors="replace")  # characters beyond its encoding
    stream.write, stream.flush = partial(tried, stream.write), partial(tried, stream.flush)

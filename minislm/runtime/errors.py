"""Errors that a user can correct, each one line, and exit codes.

0: done; 2: a `UserError`, printed on stderr without a traceback; 130: interrupted by Ctrl-C. Any
other exception is a bug and keeps its traceback.
"""

import os
import sys
from collections.abc import Callable

_LONGEST = 600  # characters of a message


class UserError(Exception):
    """A mistake of the user; the message has what is wrong, where, and what to do.

    It is one printable line of bounded length, whatever a damaged file has put into it.
    """

    def __init__(self, message: str):
        line = " ".join(message.split())
        if len(line) > _LONGEST:
            line = f"{line[: _LONGEST // 2]} ... {line[-_LONGEST // 2 :]}"
        super().__init__("".join(c if c.isprintable() else ascii(c)[1:-1] for c in line))


class CheckpointError(UserError):
    """A model folder or weight file that cannot be used; names the file and, if any, the tensor."""


def run_script(main: Callable[[], None]) -> None:
    """Run a script's `main` and end the process with the exit code of its outcome."""
    try:
        main()
        sys.stdout.flush()
    except UserError as error:
        log(f"error: {error}")
        sys.exit(2)
    except KeyboardInterrupt:
        log("interrupted")
        sys.exit(130)
    except BrokenPipeError:  # the reader of our output (head, less) has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def log(line: str) -> None:
    """Print progress and errors to stderr; of several processes, the first one prints."""
    if os.environ.get("RANK", "0") == "0":
        print(line, file=sys.stderr, flush=True)

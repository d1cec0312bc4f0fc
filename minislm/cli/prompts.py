"""Prompts from flags and files."""

from __future__ import annotations

import sys

from minislm.runtime.errors import UserError


def read_prompts(given: list[str], path: str | None) -> list[str]:
    """The prompts given and those of a file, one per line ("-": stdin); one empty prompt if none.

    Raises:
        UserError: the file cannot be read.
    """
    prompts = list(given)
    if path is not None:
        try:
            with sys.stdin if path == "-" else open(path, encoding="utf-8") as file:
                prompts += [line.rstrip("\r\n") for line in file if line.strip()]
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"cannot read prompts from {path}: {error}") from error
    return prompts or [""]

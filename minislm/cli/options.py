"""Command-line flags from dataclasses: one field made with `option` is one flag."""

import argparse
import difflib
from dataclasses import fields
from typing import Any, NoReturn, get_args, get_type_hints

from minislm.config import flag_name
from minislm.runtime.errors import UserError


class Parser(argparse.ArgumentParser):
    """Flags of several configs; a mistake is a UserError that names the nearest flag."""

    def __init__(self, description: str, *configs: type):
        # SUPPRESS: only the flags given are in the result, so a default never overrides a run
        super().__init__(
            description=description, argument_default=argparse.SUPPRESS, allow_abbrev=False
        )
        for config in configs:
            self.add_config(config)

    def add_config(self, config: type) -> None:
        """One flag per option of `config`; a name that two configs share is one flag."""
        group = self.add_argument_group((config.__doc__ or "").splitlines()[0].rstrip("."))
        types = get_type_hints(config)
        for each in fields(config):
            flag, limits, default = flag_name(each.name), each.metadata, each.default
            if not limits or flag in self._option_string_actions:
                continue
            several = isinstance(default, tuple)
            shown = ",".join(map(str, default)) if several else default
            text = limits["help"] + ("" if default is None else f" (default: {shown})")
            kind = next(iter(get_args(types[each.name])), types[each.name])  # int | None: int
            if kind is bool:
                group.add_argument(flag, action=argparse.BooleanOptionalAction, help=text)
            else:
                kind, choices = numbers if several else kind, limits["choices"] or None
                group.add_argument(flag, type=kind, choices=choices, help=text)

    def error(self, message: str) -> NoReturn:
        unknown = message.removeprefix("unrecognized arguments: ").split()[0]
        if message.startswith("unrecognized") and unknown.startswith("--"):
            near = difflib.get_close_matches(unknown.split("=")[0], self._option_string_actions, 1)
            hint = f"did you mean {near[0]}?" if near else "see --help"
            raise UserError(f"unknown flag {unknown}; {hint}")
        raise UserError(f"{message}; see --help")


def numbers(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(",")))


def build(config: type, flags: argparse.Namespace, base: dict[str, Any] | None = None) -> Any:
    """A config from `base` (a preset or a run's own settings), overridden by the flags given."""
    values, names = (base or {}) | vars(flags), {each.name for each in fields(config)}
    return config(**{name: value for name, value in values.items() if name in names})


def only_with(flags: argparse.Namespace, names: tuple[str, ...], *modes: str) -> None:
    """Refuse flags without the mode that they belong to; raises UserError."""
    given = [name for name in names if hasattr(flags, name)]
    if given and not any(hasattr(flags, mode) for mode in modes):
        raise UserError(f"{flag_name(given[0])} goes with {' or '.join(map(flag_name, modes))}")

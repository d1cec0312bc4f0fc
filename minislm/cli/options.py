"""Command-line flags from dataclasses: one field made with `option` is one flag.

A setting comes from the preset, then from a run's own settings, then from the flags. Only flags
that were given count, so a default never overrides a run.
"""

from __future__ import annotations

import argparse
import difflib
from dataclasses import fields
from typing import Any, NoReturn, get_args, get_type_hints

from minislm.config import flag_name
from minislm.runtime.errors import UserError


class Parser(argparse.ArgumentParser):
    """Flags of several configs; a mistake is a UserError that names the nearest flag."""

    def __init__(self, description: str, *configs: type):
        super().__init__(
            description=description,
            argument_default=argparse.SUPPRESS,  # only the flags given are in the result
            allow_abbrev=False,
        )
        for config in configs:
            self.add_config(config)

    def add_config(self, config: type) -> None:
        """One flag per option of `config`; a name that two configs share is one flag."""
        group = self.add_argument_group((config.__doc__ or "").splitlines()[0].rstrip("."))
        types, known = get_type_hints(config), self._option_string_actions
        for each in fields(config):
            flag = flag_name(each.name)
            if not each.metadata or flag in known:
                continue
            text = each.metadata["help"]
            if each.default is not None:
                text += f" (default: {_shown(each.default)})"
            kind = next(iter(get_args(types[each.name])), types[each.name])  # int | None: int
            if kind is bool:
                group.add_argument(flag, action=argparse.BooleanOptionalAction, help=text)
                continue
            parse = _numbers if isinstance(each.default, tuple) else kind
            choices = each.metadata["choices"] or None
            metavar = None if choices else each.name.upper()
            group.add_argument(flag, type=parse, choices=choices, metavar=metavar, help=text)

    def error(self, message: str) -> NoReturn:
        unknown = message.removeprefix("unrecognized arguments: ").split()[0]
        if unknown.startswith("--") and message.startswith("unrecognized"):
            known = [flag for action in self._actions for flag in action.option_strings]
            near = difflib.get_close_matches(unknown.split("=")[0], known, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise UserError(f"unknown flag {unknown}{hint or '; see --help'}")
        raise UserError(f"{message}; see --help")


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in text.split(","))


def _shown(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def build(config: type, flags: argparse.Namespace, base: dict[str, Any] | None = None) -> Any:
    """A config from `base` (a preset or a run's own settings), overridden by the flags given."""
    names = {each.name for each in fields(config)}
    values = {name: value for name, value in (base or {}).items() if name in names}
    values |= {name: value for name, value in vars(flags).items() if name in names}
    return config(**values)


def only_with(flags: argparse.Namespace, names: tuple[str, ...], *modes: str) -> None:
    """Refuse flags that need a mode which was not asked for; raises UserError."""
    given = [name for name in names if hasattr(flags, name)]
    if given and not any(hasattr(flags, mode) for mode in modes):
        raise UserError(f"{flag_name(given[0])} goes with {' or '.join(map(flag_name, modes))}")

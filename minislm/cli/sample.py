"""Prompts from a terminal or a file, and what a model makes of them, printed."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from minislm.cli.evaluate import open_model
from minislm.config import MachineConfig, SampleConfig
from minislm.runtime.process_group import Team, started
from minislm.runtime.errors import UserError
from minislm.runtime.files import write_json
from minislm.sampler import Sampler


def read_prompts(given: list[str], path: str | None) -> list[str]:
    """The prompts given and those of a file, one a line ("-": stdin); one empty prompt if none.

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


def tell(
    source: str | None,
    prompts: list[str],
    samples: int,
    settings: SampleConfig,
    machine: MachineConfig,
    compiled: bool = False,
) -> None:
    """Print the continuations of every prompt: one alone as it comes, several when all are done.

    Under torchrun the prompts are dealt out, and the first process prints.

    Raises:
        UserError: a prompt that does not fit, or fewer than one sample.
    """
    if samples < 1:
        raise UserError(f"--samples must be at least 1, not {samples}")
    team = Team()
    name, sampler = _open(source, machine, compiled)
    asked = [prompt for prompt in prompts for _ in range(samples)]
    found = []
    if team.world == len(asked) == settings.beams == 1 and not settings.logprobs:
        text = "".join(_shown(asked[0], sampler.stream(asked[0], settings)))
        found.append({"prompt": asked[0], "text": text})
    else:
        seeds = [settings.seed + k for _ in prompts for k in range(samples)]
        ids = [sampler.tokenizer.prompt_ids(prompt) for prompt in asked]
        results = team.collect(
            lambda: sampler.continuations(
                team.share(ids), settings, team.share(seeds), progress=team.leads
            )
        )
        team.leave()
        if not team.leads:
            return
        for k, (prompt, before, result) in enumerate(zip(asked, ids, results), 1):
            text = sampler.text(before, result.ids, settings)
            print(f"--- {k} ---\n{prompt}{text}\n")
            found.append({"prompt": prompt, "text": text})
            if settings.logprobs:
                found[-1]["logprobs"] = result.logprobs
                print(f"log-probability {sum(result.logprobs):.2f}: {_each(sampler, result)}\n")
    if machine.json:
        write_json(machine.json, {"model": name, "samples": found})


def interact(
    source: str | None, settings: SampleConfig, machine: MachineConfig, compiled: bool = False
) -> None:
    """A prompt, its continuation, and again, until Ctrl-D; a bad prompt only costs a line."""
    if started():
        raise UserError("--interactive talks with one process; run it without torchrun")
    _, sampler = _open(source, machine, compiled)
    print("Type the beginning of a story; Ctrl-D ends.", file=sys.stderr)
    while True:
        try:
            prompt = input("> ")
        except EOFError:
            return print(file=sys.stderr)
        try:
            "".join(_shown(prompt, sampler.stream(prompt, settings)))
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)


def _open(source: str | None, machine: MachineConfig, compiled: bool) -> tuple[str, Sampler]:
    name, model, tokenizer = open_model(source, machine, to_sample=True)
    precision = "int8" if machine.dtype == "int8" else None  # None: the model's own
    return name, Sampler(model, tokenizer, precision=precision, compiled=compiled)


def _shown(prompt: str, pieces: Iterator[str]) -> Iterator[str]:
    """Print a text while it is made; yields its pieces."""
    print(prompt, end="", flush=True)
    for piece in pieces:
        print(piece, end="", flush=True)
        yield piece
    print(flush=True)


def _each(sampler: Sampler, result) -> str:
    pairs = zip(result.ids, result.logprobs)
    return " ".join(f"{sampler.tokenizer.decode([id])!r}:{value:.2f}" for id, value in pairs)

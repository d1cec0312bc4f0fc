"""sample.py: continuations of prompts from the command line, a file or a terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from minislm.cli.config import MachineConfig
from minislm.cli.open_model import open_sampler
from minislm.cli.prompts import read_prompts
from minislm.config import SampleConfig
from minislm.runtime.errors import UserError
from minislm.runtime.files import write_json
from minislm.runtime.process_group import ProcessGroup, started_by_torchrun
from minislm.sampler import Continuation
from minislm.tokenizer import Tokenizer


def sample(
    source: str | None,
    prompts: list[str],
    prompt_file: str | None,
    samples: int,
    settings: SampleConfig,
    machine: MachineConfig,
    compiled: bool = False,
) -> None:
    """Print the continuations of every prompt: a single one as it is made, several at the end.

    Under torchrun the prompts are dealt to the processes, and the first one prints.

    Raises:
        UserError: a prompt that does not fit, or fewer than one sample.
    """
    if samples < 1:
        raise UserError(f"--samples must be at least 1, not {samples}")
    prompts = read_prompts(prompts, prompt_file)
    group = ProcessGroup()
    name, sampler = open_sampler(source, machine, compiled)
    repeated = [prompt for prompt in prompts for _ in range(samples)]
    found = []
    if group.world_size == len(repeated) == 1 and not settings.logprobs:
        text = "".join(_print_stream(prompts[0], sampler.stream(prompts[0], settings)))
        found.append({"prompt": prompts[0], "text": text})
    else:
        seeds = [settings.seed + k for _ in prompts for k in range(samples)]
        ids = [sampler.tokenizer.prompt_ids(prompt) for prompt in repeated]
        results = group.all_gather(
            lambda: sampler.continuations(group.shard(ids), settings, group.shard(seeds))
        )
        group.close()
        if not group.is_main:
            return
        for k, (prompt, result) in enumerate(zip(repeated, results), 1):
            text = sampler.text(result, settings)
            print(f"--- {k} ---\n{prompt}{text}\n")
            found.append({"prompt": prompt, "text": text})
            if settings.logprobs:
                found[-1]["logprobs"] = result.logprobs
                tokens = _with_logprobs(sampler.tokenizer, result)
                print(f"log-probability {sum(result.logprobs):.2f}: {tokens}\n")
    if machine.json:
        write_json(machine.json, {"model": name, "samples": found})


def interact(
    source: str | None, settings: SampleConfig, machine: MachineConfig, compiled: bool = False
) -> None:
    """Continue prompts typed at the terminal until Ctrl-D; a bad prompt costs one line."""
    if started_by_torchrun():
        raise UserError("--interactive needs a single process; run it without torchrun")
    _, sampler = open_sampler(source, machine, compiled)
    print("Type the beginning of a story; Ctrl-D ends.", file=sys.stderr)
    while True:
        try:
            prompt = input("> ")
        except EOFError:
            return print(file=sys.stderr)
        try:
            "".join(_print_stream(prompt, sampler.stream(prompt, settings)))
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)


def _print_stream(prompt: str, parts: Iterator[str]) -> Iterator[str]:
    """Print a text while it is made; yields its parts."""
    print(prompt, end="", flush=True)
    for part in parts:
        print(part, end="", flush=True)
        yield part
    print(flush=True)


def _with_logprobs(tokenizer: Tokenizer, result: Continuation) -> str:
    pairs = zip(result.ids, result.logprobs)
    return " ".join(f"{tokenizer.decode([id])!r}:{value:.2f}" for id, value in pairs)

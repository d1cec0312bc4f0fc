"""sample.py: continuations of prompts from the command line, a file or a terminal."""

from torch.distributed import is_torchelastic_launched

from minislm.cli.config import MachineConfig
from minislm.cli.open_model import open_sampler
from minislm.config import SampleConfig
from minislm.runtime.errors import UserError, log
from minislm.runtime.files import write_json
from minislm.runtime.process_group import ProcessGroup
from minislm.sampler import Sampler


def sample(
    source: str | None, prompts: tuple[list[str], list[str]], samples: int, settings: SampleConfig,
    machine: MachineConfig, compiled: bool = False,
) -> None:  # fmt: skip
    """Print continuations of what `read_prompts` gave: a single one as it is made, several at the
    end. Under torchrun the prompts are distributed over the processes, and the first one prints.
    UserError: a prompt that does not fit, or fewer than one sample."""
    if samples < 1:
        raise UserError(f"--samples must be at least 1, not {samples}")
    group = ProcessGroup()
    name, sampler = open_sampler(source, machine, compiled)
    (texts, places), context = prompts, sampler.model.config.context
    prompt_ids = [sampler.tokenizer.prompt_ids(prompt) for prompt in texts]
    for ids, place in zip(prompt_ids, places):
        if len(ids) >= context:
            raise UserError(f"{place}{len(ids)} tokens, and the model's context is {context}")
    repeated = [prompt for prompt in texts for _ in range(samples)]
    if group.world_size == len(repeated) == 1 and not settings.logprobs:
        found = [{"prompt": texts[0], "text": _stream(sampler, texts[0], settings)}]
    else:
        own = group.shard([ids for ids in prompt_ids for _ in range(samples)])
        seeds = group.shard([settings.seed + k for _ in texts for k in range(samples)])
        results = group.all_gather(lambda: sampler.continuations(own, settings, seeds))
        group.close()
        if not group.is_main:
            return
        found = []
        for k, (prompt, result) in enumerate(zip(repeated, results), 1):
            found.append({"prompt": prompt, "text": sampler.text(result, settings)})
            print(f"--- {k} ---\n{prompt}{found[-1]['text']}\n")
            if settings.logprobs:
                found[-1]["logprobs"] = values = result.logprobs
                tokens = [repr(sampler.tokenizer.decode([token])) for token in result.ids]
                shown = " ".join(f"{token}:{value:.2f}" for token, value in zip(tokens, values))
                print(f"log-probability {sum(values):.2f}: {shown}\n")
    if machine.json:
        write_json(machine.json, {"model": name, "samples": found})


def interact(
    source: str | None, settings: SampleConfig, machine: MachineConfig, compiled: bool = False
) -> None:
    """Continue prompts typed at the terminal until Ctrl-D; a bad prompt costs one line."""
    if is_torchelastic_launched():
        raise UserError("--interactive needs a single process; run it without torchrun")
    _, sampler = open_sampler(source, machine, compiled)
    log("Type the beginning of a story; Ctrl-D ends.")
    while True:
        try:
            _stream(sampler, input("> "), settings)
        except (EOFError, OSError):  # OSError: stdin is closed
            return log("")
        except UserError as error:
            log(f"\nerror: {error}")


def _stream(sampler: Sampler, prompt: str, settings: SampleConfig) -> str:
    """Print a prompt and its continuation while it is made; returns the continuation."""
    print(prompt, end="", flush=True)
    text = ""
    for part in sampler.stream(prompt, settings):
        print(part, end="", flush=True)
        text += part
    print(flush=True)
    return text

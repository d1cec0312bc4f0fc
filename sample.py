"""Let a model go on with a text: `python sample.py --prompt "Once upon a time"`. See --help."""

import sys

from minislm.config import MachineConfig, Parser, SampleConfig, build
from minislm.errors import UserError, run_script


def main() -> None:
    parser = Parser(__doc__, SampleConfig, MachineConfig)
    parser.add_argument("--model", help="run folder, model folder, hub id or .bin (newest run)")
    parser.add_argument("--prompt", action="append", help="text to go on from; may be repeated")
    parser.add_argument("--prompt-file", help="a file with one prompt a line; - reads stdin")
    parser.add_argument("--samples", type=int, default=1, help="texts per prompt, from SEED on")
    parser.add_argument("--interactive", action="store_true", help="ask for prompts until Ctrl-D")
    flags = parser.parse_args()
    settings, machine = build(SampleConfig, flags), build(MachineConfig, flags)
    if flags.samples < 1:
        raise UserError(f"--samples must be at least 1, not {flags.samples}")
    prompts, samples = read_prompts(flags), flags.samples

    from minislm.compare import open_model
    from minislm.pipeline import write_json
    from minislm.sampler import Sampler

    name, model, tokenizer = open_model(getattr(flags, "model", None), machine)
    sampler = Sampler(model, tokenizer)
    if "interactive" in flags:
        return interact(sampler, settings)
    asked = [prompt for prompt in prompts for _ in range(samples)]
    if len(asked) == 1:
        texts = ["".join(show(asked[0], sampler.stream(asked[0], settings)))]
    else:
        seeds = [settings.seed + k for _ in prompts for k in range(samples)]
        texts = sampler.generate(asked, settings, seeds=seeds)
        for k, (prompt, text) in enumerate(zip(asked, texts), 1):
            print(f"--- {k} ---\n{prompt}{text}\n")
    if machine.json:
        found = [{"prompt": prompt, "text": text} for prompt, text in zip(asked, texts)]
        write_json(machine.json, {"model": name, "samples": found})


def read_prompts(flags) -> list[str]:
    """The prompts of --prompt and --prompt-file, in this order; one empty prompt if none."""
    prompts, path = list(getattr(flags, "prompt", [])), getattr(flags, "prompt_file", None)
    if path is not None:
        try:
            with sys.stdin if path == "-" else open(path, encoding="utf-8") as file:
                prompts += [line.rstrip("\r\n") for line in file if line.strip()]
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"cannot read prompts from {path}: {error}") from error
    return prompts or [""]


def show(prompt: str, pieces):
    """Print a text while it is made; yields its pieces."""
    print(prompt, end="", flush=True)
    for piece in pieces:
        print(piece, end="", flush=True)
        yield piece
    print(flush=True)


def interact(sampler, settings) -> None:
    """A prompt, its continuation, and again, until Ctrl-D; a bad prompt only costs a line."""
    print("Type the beginning of a story; Ctrl-D ends.", file=sys.stderr)
    while True:
        try:
            prompt = input("> ")
        except EOFError:
            return print(file=sys.stderr)
        try:
            "".join(show(prompt, sampler.stream(prompt, settings)))
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)


if __name__ == "__main__":
    run_script(main)

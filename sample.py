"""Let a model go on with a text: `python sample.py --prompt "Once upon a time"`. See --help."""

from minislm.config import BenchmarkConfig, MachineConfig, Parser, SampleConfig, build
from minislm.runtime.errors import run_script


def main() -> None:
    parser = Parser(__doc__, SampleConfig, MachineConfig, BenchmarkConfig)
    parser.add_argument("--model", help="run folder, model folder, hub id or .bin (newest run)")
    parser.add_argument("--prompt", action="append", help="text to go on from; may be repeated")
    parser.add_argument("--prompt-file", help="a file with one prompt a line; - reads stdin")
    parser.add_argument("--samples", type=int, default=1, help="texts per prompt, from SEED on")
    parser.add_argument("--stop-string", action="append", help="end before it; may be repeated")
    parser.add_argument("--interactive", action="store_true", help="ask for prompts until Ctrl-D")
    parser.add_argument("--compile", action="store_true", help="decode by compiled code, made "
                        "once for a size of batch in half a minute: up to three times as fast")
    parser.add_argument("--benchmark", action="store_true", help="measure the speed of sampling")
    flags = parser.parse_args()
    flags.stop_strings = tuple(getattr(flags, "stop_string", ()))
    settings, machine = build(SampleConfig, flags), build(MachineConfig, flags)
    source, compiled = getattr(flags, "model", None), "compile" in flags
    if "benchmark" in flags:
        from minislm.bench import sampling as benchmark

        return benchmark.run(source, build(BenchmarkConfig, flags), machine, compiled)
    from minislm.cli import sample as console

    if "interactive" in flags:
        return console.interact(source, settings, machine, compiled)
    given, file = getattr(flags, "prompt", []), getattr(flags, "prompt_file", None)
    prompts = console.read_prompts(given, file)
    console.tell(source, prompts, flags.samples, settings, machine, compiled)


if __name__ == "__main__":
    run_script(main)

"""Continue a text: `python sample.py --prompt "Once upon a time"`. See --help."""

import sys

from minislm.bench.config import BenchmarkConfig
from minislm.cli.config import MachineConfig
from minislm.cli.options import Parser, build, only_with
from minislm.config import SampleConfig
from minislm.runtime.errors import run_script


def main() -> None:
    parser = Parser(__doc__, SampleConfig, MachineConfig)
    parser.add_argument("--model", help="run folder, model folder, hub id or .bin (default: the "
                        "newest run)")  # fmt: skip
    parser.add_argument("--prompt", action="append", help="text to continue; may be repeated")
    parser.add_argument("--prompt-file", help="file with one prompt per line; - reads stdin")
    parser.add_argument("--samples", type=int, default=1, help="samples per prompt, with the seeds "
                        "SEED, SEED + 1, ... (default: 1)")  # fmt: skip
    parser.add_argument("--stop-string", action="append", help="end before it; may be repeated")
    parser.add_argument("--interactive", action="store_true", help="prompts from the terminal "
                        "until Ctrl-D")  # fmt: skip
    parser.add_argument("--compile", action="store_true", help="compile the decode steps, half a "
                        "minute once per batch size: up to three times as fast")  # fmt: skip
    parser.add_argument("--benchmark", action="store_true", help="measure sampling throughput")
    parser.add_config(BenchmarkConfig)
    flags = parser.parse_args()
    benchmarks = ("batch_sizes", "peers", "preset", "modes", "precisions", "rounds", "out")
    only_with(flags, benchmarks, "benchmark")
    flags.stop_strings = tuple(getattr(flags, "stop_string", ()))
    settings, machine = build(SampleConfig, flags), build(MachineConfig, flags)
    source, compiled = getattr(flags, "model", None), "compile" in flags
    if "benchmark" in flags:
        from minislm.bench.sampling import benchmark

        config = build(BenchmarkConfig, flags)
        return benchmark(
            source, config, device=machine.device, threads=machine.threads, json=machine.json,
            compiled=compiled,
        )  # fmt: skip
    from minislm.cli.open_model import read_prompts
    from minislm.cli.sample import interact, sample

    if "interactive" in flags:
        if hasattr(sys.stdin, "reconfigure"):  # a line that is not UTF-8 gets an error of its own
            sys.stdin.reconfigure(encoding="utf-8-sig", errors="surrogateescape")
        return interact(source, settings, machine, compiled)
    prompts = read_prompts(getattr(flags, "prompt", []), getattr(flags, "prompt_file", None))
    sample(source, prompts, flags.samples, settings, machine, compiled)


if __name__ == "__main__":
    run_script(main)

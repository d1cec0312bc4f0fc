"""Train a small language model: `python train.py` needs no argument. See --help."""

from dataclasses import replace

from minislm.cli.config import DataConfig, RunConfig
from minislm.cli.options import Parser
from minislm.config import ModelConfig, TrainConfig
from minislm.runtime.errors import run_script


def main() -> None:
    parser = Parser(__doc__, DataConfig, TrainConfig, RunConfig, ModelConfig)
    parser.add_argument("--benchmark", action="store_true", help="measure training throughput "
                        "beside a plain loop")  # fmt: skip
    flags = parser.parse_args()
    if "benchmark" in flags:
        from minislm.bench.training import benchmark
        from minislm.cli.run_settings import settings_from

        settings = settings_from(flags)
        model, run = replace(settings.model, vocab_size=settings.data.vocab), settings.run
        return benchmark(
            model, settings.train, device=run.device, dtype=run.dtype, threads=run.threads,
            json=run.json,
        )  # fmt: skip
    from minislm.cli.train import train  # torch takes a second to import, which --help need not

    train(flags)


if __name__ == "__main__":
    run_script(main)

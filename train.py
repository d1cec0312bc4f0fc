"""Train a small language model: `python train.py` needs no argument. See --help."""

from minislm.config import DataConfig, ModelConfig, Parser, TrainConfig
from minislm.runtime.errors import run_script


def main() -> None:
    parser = Parser(__doc__, DataConfig, TrainConfig, ModelConfig)
    parser.add_argument("--benchmark", action="store_true", help="measure the speed of training "
                        "beside a plain loop's")  # fmt: skip
    flags = parser.parse_args()
    if "benchmark" in flags:
        from minislm.bench.training import benchmark

        return benchmark(flags)
    from minislm.cli.train import train  # torch takes a second to import: --help need not wait

    train(flags)


if __name__ == "__main__":
    run_script(main)

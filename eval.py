"""Measure one model or several side by side: `python eval.py` takes the newest run."""

from minislm.config import EvalConfig, MachineConfig, Parser, build
from minislm.errors import run_script


def main() -> None:
    parser = Parser(__doc__, EvalConfig, MachineConfig)
    parser.add_argument("--model", nargs="+", help="run folders, model folders, hub ids, .bin")
    parser.add_argument("--prompt", action="append", help="go on from this text, side by side")
    flags = parser.parse_args()
    config, machine = build(EvalConfig, flags), build(MachineConfig, flags)
    from minislm.compare import evaluate

    evaluate(getattr(flags, "model", [None]), getattr(flags, "prompt", []), config, machine)


if __name__ == "__main__":
    run_script(main)

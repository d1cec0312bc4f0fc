"""Measure one model or several side by side: `python eval.py` takes the newest run.

With --study, run a study of many small models instead and print its report.
"""

from minislm.config import EvalConfig, MachineConfig, Parser, StudyConfig, build
from minislm.errors import run_script


def main() -> None:
    parser = Parser(__doc__, EvalConfig, MachineConfig, StudyConfig)
    parser.add_argument("--model", nargs="+", help="run folders, model folders, hub ids, .bin")
    parser.add_argument("--prompt", action="append", help="go on from this text, side by side")
    flags = parser.parse_args()
    models = getattr(flags, "model", [])
    if hasattr(flags, "study"):
        from minislm.studies import study

        return study(build(StudyConfig, flags), getattr(flags, "tasks", "auto"), models)
    config, machine = build(EvalConfig, flags), build(MachineConfig, flags)
    from minislm.compare import evaluate

    evaluate(models or [None], getattr(flags, "prompt", []), config, machine)


if __name__ == "__main__":
    run_script(main)

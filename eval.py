"""Measure one model or several side by side: `python eval.py` takes the newest run.

With --score, grade what they say; with --inspect, look inside one; with --off, switch parts of it
off; with --study, run a study of many small models.
"""

from minislm.config import (
    EvalConfig,
    InspectConfig,
    MachineConfig,
    Parser,
    ScoreConfig,
    StudyConfig,
    build,
    only_with,
)
from minislm.runtime.errors import run_script


def main() -> None:
    parser = Parser(__doc__, EvalConfig, MachineConfig, InspectConfig, ScoreConfig, StudyConfig)
    parser.add_argument("--model", nargs="+", help="run folders, model folders, hub ids, .bin")
    parser.add_argument("--prompt", action="append", help="go on from this text, side by side")
    flags = parser.parse_args()
    only_with(flags, StudyConfig, "study")
    only_with(flags, ScoreConfig, "score")
    only_with(flags, InspectConfig, "inspect", "off")
    models, prompts = getattr(flags, "model", []), getattr(flags, "prompt", [])
    config, machine = build(EvalConfig, flags), build(MachineConfig, flags)
    if hasattr(flags, "study"):
        from minislm.cli.study import study

        study(build(StudyConfig, flags), config.tasks, models)
    elif getattr(flags, "score", False):
        from minislm.cli.score import score

        score(models, build(ScoreConfig, flags), config, machine)
    elif hasattr(flags, "inspect") or hasattr(flags, "off"):
        from minislm.cli import inspect as inside

        inspected, one = build(InspectConfig, flags), (models or [None])[0]
        if hasattr(flags, "inspect"):
            inside.look_inside(one, inspected, config, machine)
        else:
            inside.switch_off(one, prompts, inspected, config, machine)
    else:
        from minislm.cli.evaluate import evaluate

        evaluate(models or [None], prompts, config, machine)


if __name__ == "__main__":
    run_script(main)

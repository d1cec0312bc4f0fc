"""Evaluate one model or several side by side: `python eval.py` takes the newest run.

With --score, score generated texts; with --inspect, look inside a model; with --off, ablate parts
of it; with --study, run a study of many small models.
"""

from minislm.cli.config import EvalConfig, InspectConfig, MachineConfig
from minislm.cli.options import Parser, build, only_with
from minislm.runtime.errors import UserError, run_script
from minislm.scoring.config import ScoreConfig
from minislm.studies.config import StudyConfig


def main() -> None:
    parser = Parser(__doc__, EvalConfig, MachineConfig, InspectConfig, ScoreConfig, StudyConfig)
    parser.add_argument("--model", nargs="+", help="run folders, model folders, hub ids, .bin "
                        "(default: the newest run)")  # fmt: skip
    parser.add_argument("--prompt", action="append", help="continue this text, side by side")
    parser.add_argument("--inspect", nargs="?", const="", metavar="TEXT", help="write a page that "
                        "runs the model in a browser and shows why it wrote each word; its text "
                        "begins with TEXT")  # fmt: skip
    flags = parser.parse_args()
    only_with(flags, ("quick", "seeds", "processes"), "study")
    only_with(flags, ("samples", "prompt_file", "grader", "human", "judge",
                      "judge_budget"), "score")  # fmt: skip
    only_with(flags, ("out",), "study", "inspect", "off")
    models, prompts = getattr(flags, "model", []), getattr(flags, "prompt", [])
    config, machine = build(EvalConfig, flags), build(MachineConfig, flags)
    if hasattr(flags, "study"):
        from minislm.cli.study import study

        if models:
            raise UserError("--study trains its own models: leave out --model")
        study(build(StudyConfig, flags), config.tasks, config.data)
    elif getattr(flags, "score", False):
        from minislm.cli.score import score

        score(models, build(ScoreConfig, flags), config, machine)
    elif hasattr(flags, "inspect") or hasattr(flags, "off"):
        from minislm.cli import inspect

        inspected, one = build(InspectConfig, flags), (models or [None])[0]
        if hasattr(flags, "inspect"):
            precision = getattr(flags, "dtype", "int8")
            inspect.write_page(one, inspected, config, machine, precision)
        else:
            inspect.ablate(one, prompts, inspected, config, machine)
    else:
        from minislm.cli.evaluate import evaluate

        evaluate(models or [None], prompts, config, machine)


if __name__ == "__main__":
    run_script(main)

"""The generalization study: does a model learn the rule of a task, or a shallow heuristic?
Models learn the 70 pairs of D_train and answer the 30 of D_test. One seed is one observation: it
answers all 30 or it does not. RULE is how the report concludes."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

from minislm.reporting import plots
from minislm.reporting.intervals import clopper_pearson, rate_difference
from minislm.reporting.tables import markdown_table
from minislm.studies import arms
from minislm.studies.arms import Arm
from minislm.studies.baselines import HEURISTICS, determined
from minislm.studies.circuit import circuit
from minislm.studies.config import StudyConfig
from minislm.studies.learning import Errors, deviation, first_errors, train_in_memory
from minislm.studies.runner import Result, Row, Study, Trial
from minislm.tasks import TASKS, Pair, pairs

SEEDS, FEW = 16, 4  # in the arms that matter, and in the others
FIRST_SEED = 3000  # those below were used while the recipe was found
FAR = range(101, 131)  # beyond the numbers of the data set
TEST, LEARNED = 30, 67  # questions of D_test; right answers of the 70 that count as learned
QUESTION, RULE, LIMITS = Path(__file__).with_name("report.txt").read_text("utf-8").split("---\n")


def plan(config: StudyConfig) -> list[list[Trial]]:
    """Three phases: unary by one block; other tasks, and pre-training; what needs it, and more."""
    many = config.seeds or (2 if config.quick else SEEDS)
    few = min(many, 1 if config.quick else FEW)
    tasks = config.only or tuple(TASKS)
    digits = [task for task in arms.DIGITS if task in tasks]
    unary = ["unary"] if "unary" in tasks else []

    def trials(some: Iterable[Arm], on: Iterable[str], seeds: int) -> list[Trial]:
        return [
            dict(kind="arm", arm=asdict(arm), task=task, seed=FIRST_SEED + n, quick=config.quick)
            for n in range(seeds) for task in on for arm in some
        ]  # fmt: skip

    first: list[Trial] = [{"kind": "heuristics", "task": task} for task in tasks]
    first += trials((arms.RUN,), unary, many) + trials(arms.OTHERS, unary, many)
    second = trials((arms.RUN, *arms.TWO, arms.TWICE), digits, few)
    second += trials((*arms.TWO, arms.TWICE), unary, few)
    if config.quick:
        return [first, second]
    stories = [task for task in (*arms.DIGITS[1:], *arms.WORDS) if task in tasks]
    third = trials((arms.DRILLED,), digits, few) + trials((arms.NUMBERS,), stories, 2 * few)
    third += trials((arms.BROKEN,), stories, few) + trials((arms.AFTER,), unary, few)
    starts = {(each["arm"]["name"], each["seed"]): each["arm"] for each in third}
    second += [dict(kind="pretrain", arm=arm, seed=seed, steps=800)
               for (_, seed), arm in starts.items()]  # fmt: skip
    third += trials(arms.LONGER, unary, many)
    return [first, second, third]


def learn(arm: dict[str, Any], task: str, seed: int, quick: bool, folder: Path) -> Result:
    """Train an arm on D_train; its first errors on D_train, D_test and larger numbers."""
    own = Arm(**arm)
    model, tokenizer = own.model(seed, folder)
    result: Result = {"parameters": model.n_parameters()}
    result |= train_in_memory(model, tokenizer, own.recipe(seed, quick), pairs(task, "train"))
    result |= {x: first_errors(model, tokenizer, pairs(task, x)) for x in ("train", "test")}
    if own == arms.RUN and task == "unary":
        far = [Pair(task, i, *TASKS[task](i)) for i in FAR]
        result["far"] = first_errors(model, tokenizer, far)
        result["circuit"] = circuit(model, tokenizer, seed)
    return result


def heuristics(task: str, folder: Path) -> Result:
    """Where each heuristic's answer first differs from the right one, on D_test; the same of its
    answer to another question (chance); the number of questions that an ideal learner answers."""
    train, test = pairs(task, "train"), pairs(task, "test")
    own, chance = (
        {name: {str(a.i): deviation(a.answer, answer(b, train)) for a, b in zip(test, others)}
         for name, answer in HEURISTICS.items()}
        for others in (test, test[15:] + test[:15])
    )  # fmt: skip
    known = sum(determined(task, pair.i, train) for pair in test)
    return {"determined": known, "heuristics": own, "chance": chance}


class Results:
    """The results of a study by task and name of the arm: `runs` of arms, `texts`."""

    def __init__(self, rows: Sequence[Row]):
        kinds = defaultdict(lambda: defaultdict(list))
        for trial, result in ((row["trial"], row["result"]) for row in rows):
            arm = trial.get("arm", "")
            kinds[trial["kind"]][trial.get("task"), arm["name"] if arm else ""].append(result)
        self.runs, self.texts = kinds["arm"], kinds["pretrain"]
        self.heuristics = {task: found[0] for (task, _), found in kinds["heuristics"].items()}

    def right(self, task: str, arm: str, split: str) -> list[int]:
        """Right answers of each seed."""
        return [len(pairs(task, split)) - len(run[split]) for run in self.runs[task, arm]]

    def solved(self, task: str, arm: str) -> tuple[int, int]:
        """Seeds that answer all of D_test, and seeds."""
        right = self.right(task, arm, "test")
        return right.count(TEST), len(right)

    def verdict(self, task: str, arm: str) -> str:
        """What RULE concludes."""
        if self.heuristics[task]["determined"] < TEST and arm != arms.NUMBERS.name:
            return "cannot know the rule"
        if median(self.right(task, arm, "train")) < LEARNED:
            return "has not learned D_train"
        solved, seeds = self.solved(task, arm)
        low, high = clopper_pearson(solved, seeds)
        if low > 0.5 or high < 0.5:
            return "finds the rule" if low > 0.5 else "does not find the rule"
        return "depends on the seed" if 0 < solved < seeds else "undecided (too few seeds)"

    def explained(self, task: str, arm: str, heuristic: str) -> tuple[float, float]:
        """The share of wrong answers that are those of a heuristic, and of them by chance."""
        own, others = (self.heuristics[task][kind][heuristic] for kind in ("heuristics", "chance"))
        wrong = [error for run in self.runs[task, arm] for error in run["test"].items()]
        same, chance = (sum(each[i] == error for i, error in wrong) for each in (own, others))
        return same / max(1, len(wrong)), chance / max(1, len(wrong))


def places(errors: Iterable[Errors], task: str) -> Counter[str]:
    """Where wrong answers first differ: at a digit, or at the stop, too early or too late."""
    found: Counter[str] = Counter()
    for i, (at, text) in (error for run in errors for error in run.items()):
        answer = TASKS[task](int(i))[1]
        place = f"digit {at}" if task in arms.DIGITS[1:] else "another token"
        found["stops late" if at >= len(answer) else place if text else "stops early"] += 1
    return found


def report(rows: Sequence[Row], folder: Path) -> str:
    """The report in Markdown; writes its plot into the folder."""
    found = Results(rows)
    values = {arm: found.right(task, arm, "test") for task, arm in found.runs if task == "unary"}
    path = folder / "unary.png"
    picture = plots.dots(values, "right answers of 30 on D_test", path) if values else ""
    sections = {
        "Question": QUESTION, "Unary": picture,
        **{f"Task {task}": _arm_table(found, task) for task in TASKS if task in found.heuristics},
        "Rule of the verdicts": RULE, "Wrong answers on D_test": _error_table(found),
        "The circuit of unary": _circuit_table(found), "Pre-training": _text_table(found),
        "Limits": LIMITS,
    }  # fmt: skip
    return "\n".join(f"## {title}\n\n{body}" for title, body in sections.items() if body)


def _arm_table(found: Results, task: str) -> str:
    lines, names = [], [arm for each, arm in found.runs if each == task]
    others = {arms.NUMBERS.name: arms.NUMBERS.name, arms.BROKEN.name: arms.NUMBERS.name}
    for arm in names:
        runs, (solved, seeds) = found.runs[task, arm], found.solved(task, arm)
        reference = next(each for each in (others.get(arm), names[0]) if each in names)
        gap = rate_difference((solved, seeds), found.solved(task, reference))
        far = [len(FAR) - len(run["far"]) for run in runs if "far" in run]
        lines.append((
            arm, f"{runs[0]['parameters']:,}", f"{runs[0]['steps']:,}",
            f"{median(found.right(task, arm, 'train')):g}",
            f"{median(found.right(task, arm, 'test')):g}",
            "{} of {} ({:.0%} to {:.0%})".format(solved, seeds, *clopper_pearson(solved, seeds)),
            "-" if arm == reference else "{:+.0%} ({:+.0%} to {:+.0%})".format(*gap),
            found.verdict(task, arm), f"{median(far):g}" if far else "-",
        ))  # fmt: skip
    head = ("arm", "parameters", "steps", "D_train: median of 70", "D_test: median of 30",
            "seeds with all 30", "difference of these shares", "verdict",
            "101 to 130: median of 30")  # fmt: skip
    ideal = f"D_train determines {found.heuristics[task]['determined']} of the 30 answers.\n\n"
    return ideal + markdown_table(head, lines) if lines else ""


def _error_table(found: Results) -> str:
    """Where they differ from the right ones, and which heuristic explains most, beyond chance."""
    lines = []
    for (task, arm), runs in found.runs.items():
        counts = places((run["test"] for run in runs), task)
        shares = {name: found.explained(task, arm, name) for name in HEURISTICS}
        name = max(HEURISTICS, key=lambda each: shares[each][0] - shares[each][1])
        if total := counts.total():
            kinds = ", ".join(f"{kind} {n / total:.0%}" for kind, n in counts.most_common())
            same, chance = shares[name]
            name = name if same > chance else "-"
            lines.append((task, arm, str(total), kinds, name, f"{same:.0%}", f"{chance:.0%}"))
    head = ("task", "arm", "wrong", "first error", "nearest heuristic", "equal to it", "by chance")
    return markdown_table(head, lines) if lines else ""


def _circuit_table(found: Results) -> str:
    """Of the models that answer all of D_test."""
    lines = []
    for (_, arm), runs in found.runs.items():
        solved = [run["circuit"] for run in runs if "circuit" in run and not run["test"]]

        def summary(name: str, solved: Sequence[Result] = solved) -> str:
            values = sorted(each[name] for each in solved if name in each)
            return f"{median(values):g} ({values[0]} to {values[-1]})" if values else "-"

        names = ("size", "keep", "remove", "remove_one", "remove_others")
        stops, patched = (sum(each[name] for each in solved) for name in ("stops", "patched"))
        row = (arm, str(len(solved)), *map(summary, names), f"{stops} of {patched}")
        lines += [row] if solved else []
    head = ("arm", "models", "heads of the circuit", "right with the mean of all other heads",
            "with these heads resampled", "with one of them", "with all others",
            "stops at j if these heads are patched from i to j")  # fmt: skip
    return markdown_table(head, lines) if lines else ""


def _text_table(found: Results) -> str:
    lines = []
    for (_, name), runs in found.texts.items():
        loss = median(run["bits_per_byte"] for run in runs)
        lines.append((name, str(len(runs)), f"{loss:.3f}", str(sum(run["leaks"] for run in runs))))
    head = ("arm", "models", "bits per byte (median)", "numbers of D_test from 11 on in the text")
    return markdown_table(head, lines) if lines else ""


KINDS = dict(arm=learn, heuristics=heuristics, pretrain=arms.pretrain)
STUDY = Study(plan, KINDS, report)

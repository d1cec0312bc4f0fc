"""Write the pairs of every task as JSON lines: `python data/pairs.py` makes data/*.jsonl."""

import json
from pathlib import Path

from minislm.runtime.errors import run_script
from minislm.runtime.files import atomic_write
from minislm.tasks import END_OF_TEXT, TASKS, pairs


def write_pairs(folder: str | Path) -> list[Path]:
    """Write FOLDER/TASK.jsonl for every task, one JSON object per pair; return the paths."""
    paths = [Path(folder) / f"{task}.jsonl" for task in TASKS]
    for path in paths:
        lines = [
            json.dumps(dict(task=each.task, i=each.i, split=each.split, prompt=each.prompt,
                            completion=each.answer + END_OF_TEXT)) + "\n"
            for each in pairs(path.stem)
        ]  # fmt: skip
        atomic_write(path, "".join(lines))
    return paths


if __name__ == "__main__":
    run_script(lambda: print(*write_pairs(Path(__file__).parent), sep="\n"))

"""Write the pairs of every task as JSON lines: `python -m minislm.cli.write_pairs` makes data/."""

from __future__ import annotations

import json
from pathlib import Path

from minislm.runtime.errors import run_script
from minislm.runtime.files import atomic_write
from minislm.tasks import END_OF_TEXT, TASKS, pairs


def write_pairs(folder: str | Path) -> list[Path]:
    """Write FOLDER/TASK.jsonl for every task, one JSON object per pair; return the paths."""
    paths = []
    for task in TASKS:
        records = (
            {
                "task": each.task,
                "i": each.i,
                "split": each.split,
                "prompt": each.prompt,
                "completion": each.answer + END_OF_TEXT,
            }
            for each in pairs(task)
        )
        path = Path(folder) / f"{task}.jsonl"
        atomic_write(path, "".join(json.dumps(record) + "\n" for record in records))
        paths.append(path)
    return paths


def main() -> None:
    for path in write_pairs("data"):
        print(path)


if __name__ == "__main__":
    run_script(main)

"""The records of a run's evaluations, as metrics.jsonl has them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from minislm.checkpoint import METRICS


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """The records of a run; a line that cannot be read is left out."""
    path, records = run / METRICS, []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return records

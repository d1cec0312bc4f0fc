"""Makes data/page.png, the picture of the README: `python data/screenshot.py` (it needs Chromium).

The page is that of the model in data/stories; its story has a fixed seed.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from interpret.browser import Browser  # noqa: E402

from minislm.cli.config import EvalConfig, InspectConfig, MachineConfig  # noqa: E402
from minislm.cli.inspect import write_page  # noqa: E402


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "page.html"
        config = InspectConfig(
            inspect="Once upon a time, a little dog was hungry. He wanted to", out=str(file)
        )
        write_page(str(ROOT / "data" / "stories"), config, EvalConfig(), MachineConfig(), "int8")
        page = Browser(file.as_uri(), width=1240, height=880)
        try:
            while not page.run("Boolean($('account').dataset.words)"):
                time.sleep(0.1)
            page.run("document.querySelector('#tip').hidden = true; scrollTo(0, 0)")
            time.sleep(0.3)
            page.shoot(ROOT / "data" / "page.png")
        finally:
            page.close()


if __name__ == "__main__":
    main()

"""The page's scripts, run by Node.js."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess

import pytest

from minislm.interpret.page import WEB

NAMES = ("engine", "tokenizer", "account", "circuits")


def run_node(job: str, header: dict, blob: bytes, constants: dict | None = None, **data) -> object:
    """What the function body `job` returns, with `model`, `tokenizer` and `data` at hand.
    constants: other values of constants of the scripts."""
    if not (node := shutil.which("node")):
        pytest.skip("Node.js is not installed")
    scripts = [(WEB / f"{name}.js").read_text() for name in NAMES]
    code = "\n".join(scripts).replace('"use strict";', "")
    for name, value in (constants or {}).items():
        code = re.sub(f"const {name} = [^;]+;", f"const {name} = {value};", code)
    code += (
        """
        const { header, blob, ...data } = JSON.parse(require("fs").readFileSync(0, "utf8"));
        const bytes = fromBase64(blob);
        const model = new Model(header, bytes), tokenizer = new Tokenizer(header, bytes);
        function greedy(ids, count) {
          const found = [];
          for (const id of ids) model.step(id);
          while (found.length < count) model.step(found[found.push(argmax(model.predict())) - 1]);
          return found;
        }
        console.log(JSON.stringify((() => {"""
        + job
        + "})()));"
    )
    given = json.dumps(data | {"header": header, "blob": base64.b64encode(blob).decode()})
    done = subprocess.run([node, "-e", code], input=given, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)

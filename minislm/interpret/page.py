"""The page of `eval.py --inspect`: a model, its tokenizer and what was measured, as one file."""

import base64
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from minislm.dataset import TokenDataset
from minislm.interpret import weights
from minislm.interpret.ablation import Means
from minislm.interpret.activations import classify_heads, mean_outputs, neuron_peaks
from minislm.interpret.export import export
from minislm.model import Transformer
from minislm.runtime.files import atomic_write
from minislm.tokenizer import Tokenizer

WEB = Path(__file__).parent / "web"
_WORKER = ("engine", "tokenizer", "account", "circuits", "worker")
_SCRIPT = ("common", "page", "panel", "sections")
_HEAD_STORIES, _MEAN_STORIES, _PEAK_STORIES = 12, 200, 40
_COUNTED, _WORDS = 4_000_000, 500  # tokens of the text that are counted; words with counts
_PEAKS, _PEAK_TOKENS = 3, 200  # of a neuron; tokens of a story that are searched


def measure(
    model: Transformer, tokenizer: Tokenizer, text: TokenDataset,
    peak_texts: Sequence[Sequence[int]] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """What the page shows of a text and cannot compute itself, as JSON values.
    peak_texts: texts of the page, where neurons are most active; default: some of `text`."""
    spread = range(0, len(text), max(1, len(text) // _MEAN_STORIES))[:_MEAN_STORIES]
    documents = [text.document(k).tolist()[:-1] for k in spread if len(text.document(k)) > 1]
    encoded = [[tokenizer.eot_id, *ids][: model.config.context] for ids in documents]
    means = mean_outputs(model, encoded)
    stories = [tokenizer.decode(ids) for ids in documents[:_HEAD_STORIES]]
    heads = [vars(each) for each in classify_heads(model, tokenizer, stories, means)]
    texts = [ids[:_PEAK_TOKENS] for ids in (peak_texts or encoded)[:_PEAK_STORIES]]
    found = {"stories": len(encoded),
             "means": {"heads": means.heads_LHD.tolist(), "neurons": means.neurons_LF.tolist()},
             "heads": heads,
             "peaks": {"stories": texts, "neurons": neuron_peaks(model, texts, _PEAKS)},
             "weights": None}  # fmt: skip
    if model.config.n_layer == 1 and model.config.position == "rotary":
        found["weights"] = _weights(model, tokenizer, text, encoded)
        for head, copying in zip(heads, weights.copying_scores(model)):
            head["copying"] = copying
    # Four digits of every float.
    return json.loads(json.dumps(found), parse_float=lambda text: float(f"{float(text):.4g}"))


def _weights(
    model: Transformer, tokenizer: Tokenizer, text: TokenDataset, encoded: list[list[int]]
) -> dict[str, Any]:
    """What the page shows of one block, and of counts of the same text."""
    tokens, V = text.tokens[text.starts[0] : text.starts[-1]][:_COUNTED], model.config.vocab_size
    counts_V = np.bincount(tokens, minlength=V)
    known = np.argsort(-counts_V, kind="stable")[: np.count_nonzero(counts_V)].tolist()
    common = [token for token in known if token != tokenizer.eot_id][:_WORDS]
    words = [i for i in known if re.fullmatch(" [A-Za-z]+", tokenizer.decode([i]))][:_WORDS]
    counted, entropy = weights.followers(tokens, V, words)
    frequency = (counts_V[common] / counts_V[common].sum()).tolist()
    loss = weights.loss_by_path(model, encoded) | {"bigram": entropy}
    ppmi = weights.ppmi_neighbours(tokens, V, words).tolist()
    return {"loss": loss, "common": common, "frequency": frequency, "words": words,
            "counted": counted, "ppmi": ppmi}  # fmt: skip


def write_page(
    path: Path, model: Transformer, tokenizer: Tokenizer, measured: dict[str, Any],
    about: dict[str, Any], precision: str = "int8",
) -> None:  # fmt: skip
    """Write the page. `about` has the model's name, the text that was measured, and a prompt.
    UserError: a tokenizer that the page cannot run (see `export`)."""
    means = Means(*(torch.tensor(measured["means"][part]) for part in ("heads", "neurons")))
    header, blob = export(model, tokenizer, means, precision)
    shape = {"parameters": model.n_parameters(), "blocks": model.config.n_layer}
    data = {"about": about | shape, "header": header}
    data |= {key: measured[key] for key in ("stories", "heads", "peaks", "weights")}
    parts = {  # no text can end a script element: "<" is written as an escape
        "STYLE": (WEB / "page.css").read_text(encoding="utf-8"),
        "DATA": json.dumps(data, separators=(",", ":")).replace("<", "\\u003c"),
        "BLOB": base64.b64encode(blob).decode("ascii"),
        "WORKER": _scripts(_WORKER), "SCRIPT": _scripts(_SCRIPT),
    }  # fmt: skip
    page = (WEB / "page.html").read_text(encoding="utf-8")
    atomic_write(path, re.sub(r"/\*([A-Z]+)\*/", lambda place: parts[place[1]], page))


def _scripts(names: Sequence[str]) -> str:
    whole = "\n".join((WEB / f"{name}.js").read_text(encoding="utf-8") for name in names)
    return re.sub(r"(?m)^ *//.*\n|^ +", "", whole)  # without comments and indentation

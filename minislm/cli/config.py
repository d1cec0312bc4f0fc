"""Options of the three scripts that belong to no folder: the text, the machine, the evaluation."""

from dataclasses import dataclass

from minislm.config import PRESETS, check, option
from minislm.runtime.errors import UserError


@dataclass(frozen=True)
class DataConfig:
    """Training data."""

    data: str | None = option(None, "training text: a .txt, .jsonl, .csv or .parquet file, a "
                              "folder, or a data set of the hub (owner/name or owner/name/FILE); "
                              "default: generated stories")  # fmt: skip
    valid: str | None = option(None, "validation text (default: the data set's own, or 1 in 20)")
    tasks: str = option("auto", "pair tasks to train: names with commas, all, none; auto: all that "
                        "fit the context and the model, none with --data or --pairs")  # fmt: skip
    pairs: str | None = option(None, 'JSONL file of pairs to train, {"prompt": ..., "completion": '
                               "...} in each line; a tenth is held out")  # fmt: skip
    stories: int | None = option(None, "number of generated stories (default: 6000, or 2 where "
                                 "--tasks or --pairs name pairs)", minimum=0)  # fmt: skip
    normalize: str = option("none", "replace every word of the text by its stem or its lemma",
                            choices=("none", "stem", "lemma"))  # fmt: skip
    vocab: int | None = option(None, "vocabulary (default: 4096 with --data, or 2048)", minimum=257)
    digits: str = option("single", "a token for every digit, or merged",
                         choices=("single", "merged"))  # fmt: skip
    pair_share: float = option(0.25, "fraction of the training tokens that are pairs", above=0)
    loss_on: str = option("completion", "part of a pair that has a loss",
                          choices=("completion", "all"))  # fmt: skip
    cache: str = option("runs/cache", "folder of the token files")
    content: tuple[str, ...] = ()  # hashes of the texts of a run, of those from files; not a flag

    def __post_init__(self) -> None:
        check(self)
        if self.pair_share >= 1:
            raise UserError(f"--pair-share must be below 1, not {self.pair_share}")


@dataclass(frozen=True)
class MachineConfig:
    """Device and precision."""

    device: str = option("auto", "cpu, cuda or mps; auto: the fastest available")
    dtype: str = option("float32", "precision of the weights; int8: the large matrices, on a CPU",
                        choices=("float32", "bfloat16", "float16", "int8"))  # fmt: skip
    threads: int | None = option(None, "CPU threads (default: PyTorch's)", minimum=1, below=1025)
    json: str | None = option(None, "write the result to this JSON file")
    __post_init__ = check


@dataclass(frozen=True)
class RunConfig(MachineConfig):
    """Run folder, device and precision of training."""

    dtype: str = option("auto", "precision of the matrix products; auto: bfloat16 where fast",
                        choices=("auto", "float32", "bfloat16"))  # fmt: skip
    out: str | None = option(None, "run folder (default: runs/PRESET, or the next free name)")
    init_from: str | None = option(None, "fine-tune this model: a run folder, model folder, hub id "
                                   "or .bin; it keeps its tokenizer and shape")  # fmt: skip
    trainable: str = option("all", "weights that --init-from trains; head: the output matrix",
                            choices=("all", "blocks", "last-block", "head"))  # fmt: skip
    preset: str = option("one-block", "model shape and its learning rates", choices=tuple(PRESETS))
    resume: bool = option(False, "resume the run in --out, or the newest run")
    samples: int = option(2, "number of short samples shown during training", minimum=0)
    compile: bool = option(False, "compile the blocks in the first step (for a GPU)")


@dataclass(frozen=True)
class EvalConfig:
    """Evaluation."""

    data: str | None = option(None, "text to measure the loss on (default: the run's own "
                              "validation text; for other models generated stories)")  # fmt: skip
    tasks: str = option("auto", "pair tasks: names with commas, all, or none; auto: the run's own")
    context: int | None = option(None, "tokens in a window (default: the model's)", minimum=2)
    batch_size: int = option(64, "prompts answered together", minimum=1)
    __post_init__ = check


@dataclass(frozen=True)
class InspectConfig:
    """A page that runs the model (--inspect), and ablation (--off)."""

    inspect: str | None = None  # the beginning of the page's text; the flag is in eval.py
    out: str = option("inspect.html", "file of the page")
    off: str | None = option(None, "replace heads and neurons by their mean, such as "
                             "head:0.3,neuron:0.117 (block, then number), and compare loss and "
                             "text; with --inspect, the page begins without them")  # fmt: skip

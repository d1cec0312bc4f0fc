"""`FastSampler`: the methods and the tokens of `Sampler`, several times as fast.
On a CPU it deals the prompts to worker threads with a cache each: threads that never wait for each
other decode faster than threads that share every product. Compiled steps share all threads."""

import threading
from collections import deque

import torch
from torch import nn

from minislm.config import SampleConfig
from minislm.fast.engine import FastEngine, PreparedModel
from minislm.fast.linear import PRECISIONS
from minislm.fast.threads import run_threads
from minislm.fast.topk import FastTokenSampler
from minislm.fast.traced import can_trace
from minislm.runtime.errors import UserError
from minislm.sampler import Continuation, Engine, PlainEngine, Sampler
from minislm.tokenizer import Tokenizer

# A worker thread reads all weights for its own rows alone. Those of a small model are in the
# processor's cache, so few rows are enough; those of a large one come from memory.
_SMALL = 4_000_000  # parameters
_ROWS, _ROWS_OF_LARGE = 4, 64  # of a worker thread, at least


class FastSampler(Sampler):
    """Continues prompts with a model; see `Sampler`.
    precision: "float32", "bfloat16" or "int8" weights while decoding on a CPU; None: the model's.
    compiled: compile steps where it is faster, once per number of rows. UserError: unavailable."""

    token_sampler = FastTokenSampler

    def __init__(
        self, model: nn.Module, tokenizer: Tokenizer | None = None, batch_size: int = 64, *,
        precision: str | None = None, compiled: bool = False,
    ):  # fmt: skip
        super().__init__(model, tokenizer, batch_size)
        self.precision, self.compiled = precision, compiled
        if compiled and not self._compilable():
            raise UserError("--compile is for a GPU (CUDA), or a CPU with weights in float32, "
                            "bfloat16 or int8; leave it out")  # fmt: skip
        self._prepared: dict[tuple[int, bool], PreparedModel] = {}  # by rows and compiled
        self._weights: list[tuple[int, int]] = []  # the state of the weights they were made from
        self._lock = threading.Lock()

    def _engine(
        self, rows: int, length: int, settings: SampleConfig, compiled: bool | None = None
    ) -> Engine:
        if self._device() is None:
            return super()._engine(rows, length, settings)
        if self._stepwise(settings):
            return PlainEngine(self._prepare(rows, False).model, rows, length)
        compiled = self.compiled if compiled is None else compiled
        return FastEngine(self._prepare(rows, compiled), rows, length)

    def _run(self, waiting: deque[Continuation], settings: SampleConfig, length: int) -> None:
        """Complete all that wait, in as many worker threads as are of use."""
        rows = min(self.batch_size, len(waiting))
        workers = self._workers(rows, settings)
        if not workers:
            return super()._run(waiting, settings, length)
        rows = -(-rows // workers)

        def worker() -> None:
            try:
                with torch.inference_mode():
                    engine = self._engine(rows, length, settings, compiled=False)
                    for _ in self._steps(engine, waiting, settings, rows):
                        pass
            except BaseException:
                waiting.clear()  # the other workers take no more
                raise

        try:
            run_threads([worker] * workers, cores=1)
        finally:
            waiting.clear()  # Ctrl-C leaves workers behind: they end with the rows they have

    def _workers(self, rows: int, settings: SampleConfig) -> int:
        """How many worker threads decode so many rows; 0: all threads share every product."""
        threads = torch.get_num_threads()
        if self._device() != "cpu" or threads == 1 or rows == 0:
            return 0
        compiled = self.compiled and not self._stepwise(settings)
        if compiled and self._prepare(rows, True).for_compiled:
            return 0
        if rows >= _ROWS and not can_trace():
            return 0  # workers would wait for each other's Python
        small = self.model.n_parameters() <= _SMALL
        workers = min(threads, rows // (_ROWS if small else _ROWS_OF_LARGE))
        if workers <= 1 and not small:
            return 0
        return max(1, workers)  # a small product is over before a second thread wakes up

    def _prepare(self, rows: int, compiled: bool) -> PreparedModel:
        rows = 1 << (rows - 1).bit_length()  # the next power of two: few layouts
        weights = [(weight.data_ptr(), 0 if weight.is_inference() else weight._version)
                   for weight in self.model.parameters()]  # fmt: skip
        with self._lock:
            if weights != self._weights:  # trained or loaded since: prepacked ones are copies
                self._prepared, self._weights = {}, weights
            key = (rows, compiled)
            if key not in self._prepared:
                self._prepared[key] = PreparedModel(self.model, rows, self.precision, compiled)
            return self._prepared[key]

    def _device(self) -> str | None:
        """The device of a model that the fast engines compute; None for any other."""
        config = getattr(self.model, "config", None)
        if not hasattr(self.model, "features") or config.position == "run" or config.qk_scale:
            return None
        return self.model.embedding.weight.device.type

    def _compilable(self) -> bool:
        if self._device() != "cpu":
            return self._device() == "cuda"
        own = str(self.model.embedding.weight.dtype).removeprefix("torch.")
        return (self.precision or own) in PRECISIONS

    def _stepwise(self, settings: SampleConfig) -> bool:
        """Whether each token needs the logits in Python: only the plain engine gives them."""
        gaps = self.tokenizer.unused_ids if self.tokenizer else []
        return settings.repetition_penalty != 1 or settings.logprobs or bool(gaps)

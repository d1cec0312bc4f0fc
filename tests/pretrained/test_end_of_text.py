"""Where sampling stops: the ids that the files of a model declare, as transformers reads them."""

import json
import shutil

import pytest
import torch
from helpers import random_model
from tokenizers import AddedToken
from tokenizers import Tokenizer as Backend

from minislm.config import PRESETS
from minislm.evaluation import answers
from minislm.fast.sampler import FastSampler
from minislm.pretrained.load import load
from minislm.pretrained.save import save
from minislm.pretrained.tokenizers import load_tokenizer
from minislm.runtime.errors import CheckpointError
from minislm.sampler import Sampler
from minislm.tasks import pairs
from minislm.tokenizer import Tokenizer

both = pytest.mark.parametrize("kind", [Sampler, FastSampler], ids=["plain", "fast"])
PROMPT = "Once upon a time"
NAMES = ["<unk>", "<s>", "</s>", "<|endoftext|>"]


@pytest.fixture(scope="module")
def tokenizer(stories) -> Tokenizer:
    """Four special tokens first, any of which may end a text."""
    backend = Backend.from_str(Tokenizer.train(stories, 400).backend.to_str())
    state = json.loads(backend.to_str())
    words = [word for word in state["model"]["vocab"] if word not in NAMES]
    state["model"]["vocab"] = {word: id for id, word in enumerate(NAMES + words)}
    state["added_tokens"] = []
    backend = Backend.from_str(json.dumps(state))
    backend.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in NAMES])
    return Tokenizer(backend)


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory, tokenizer):
    """A GPT-2 of which nothing declares an end."""
    folder = tmp_path_factory.mktemp("model")
    model = random_model(vocab_size=tokenizer.vocab_size, **PRESETS["gpt2"])
    with torch.no_grad():
        model.position.weight *= 3  # else it soon repeats itself
    save(folder, model, tokenizer)
    (folder / "generation_config.json").unlink()
    (folder / "tokenizer_config.json").unlink()
    config = json.loads((folder / "config.json").read_text())
    for name in ("bos", "eos", "pad"):
        config.pop(f"{name}_token_id")
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def declare(folder, **files):
    for name, contents in files.items():
        file = folder / f"{name}.json"
        before = json.loads(file.read_text()) if file.exists() else {}
        file.write_text(json.dumps(before | contents))


@pytest.fixture(scope="module")
def endless(model_folder) -> list[int]:
    """The greedy continuation of the prompt, which nothing ends."""
    return Sampler(*load(model_folder)).generate_ids(
        [load(model_folder)[1].encode(PROMPT)], max_new_tokens=60, temperature=0.0, stop=False
    )[0]


CASES = {  # what the files declare: numbers are places in the greedy continuation
    "generation_config.json": dict(generation_config={"eos_token_id": 20}),
    "several": dict(generation_config={"eos_token_id": [30, 12, 45]}),
    "one in a list": dict(generation_config={"eos_token_id": [25]}),
    "config.json": dict(config={"eos_token_id": 15}),
    "several in config.json": dict(config={"eos_token_id": [40, 18]}),
    "generation_config.json before config.json": dict(
        generation_config={"eos_token_id": 35}, config={"eos_token_id": 10}
    ),
    "generation_config.json before the tokenizer's": dict(
        generation_config={"eos_token_id": [33]}, tokenizer_config={"eos_token": "<|endoftext|>"}
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_sampling_stops_where_transformers_stops(case, model_folder, endless, tmp_path):
    transformers = pytest.importorskip("transformers")
    folder = shutil.copytree(model_folder, tmp_path / "model")
    files = json.loads(json.dumps(CASES[case]))
    for contents in files.values():
        if "eos_token_id" in contents:
            places = contents["eos_token_id"]
            several = isinstance(places, list)
            ids = [endless[place] for place in (places if several else [places])]
            contents["eos_token_id"] = ids if several else ids[0]
    declare(folder, **files)
    model, tokenizer = load(folder)
    ids = tokenizer.encode(PROMPT)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    expected = theirs.generate(torch.tensor([ids]), max_new_tokens=60, do_sample=False)
    expected = expected[0, len(ids) :].tolist()
    assert 0 < len(expected) < 60 and expected == endless[: len(expected)]
    for kind in (Sampler, FastSampler):
        found = kind(model, tokenizer).generate_ids([ids], max_new_tokens=60, temperature=0.0)
        assert found == [expected]


@pytest.mark.parametrize("name", ["</s>", "<s>"])
@pytest.mark.parametrize("file", ["special_tokens_map", "tokenizer_config"])
@pytest.mark.parametrize("as_object", [False, True])
def test_the_end_may_be_named_beside_the_tokenizer_alone(
    name, file, as_object, model_folder, tmp_path
):
    folder = shutil.copytree(model_folder, tmp_path / "model")
    token = {"content": name, "special": True} if as_object else name
    declare(folder, **{file: {"eos_token": token}})
    tokenizer = load_tokenizer(folder)
    assert tokenizer.eot_id == NAMES.index(name)
    assert tokenizer.end_ids == {tokenizer.eot_id}


def test_the_id_of_a_config_names_the_end_of_texts(model_folder, tmp_path):
    folder = shutil.copytree(model_folder, tmp_path / "model")
    assert load_tokenizer(folder).eot_id == 3  # the well-known name
    for id in (0, 2):
        declare(folder, config={"eos_token_id": id})
        assert load_tokenizer(folder).eot_id == id
    declare(folder, generation_config={"eos_token_id": [1, 2]})
    assert (load_tokenizer(folder).eot_id, load_tokenizer(folder).end_ids) == (1, {1, 2})
    declare(folder, tokenizer_config={"eos_token": "</s>"})
    assert (load_tokenizer(folder).eot_id, load_tokenizer(folder).end_ids) == (2, {1, 2})


@pytest.mark.parametrize("none", [None, -1, [], [50256], 2**40])
def test_ids_without_a_token_end_nothing(none, model_folder, tmp_path):
    folder = shutil.copytree(model_folder, tmp_path / "model")
    declare(folder, generation_config={"eos_token_id": none}, config={"eos_token_id": 2})
    assert load_tokenizer(folder).eot_id == (2 if none in (None, []) else 3)
    declare(folder, generation_config={"eos_token_id": none}, config={"eos_token_id": none})
    assert (load_tokenizer(folder).eot_id, load_tokenizer(folder).end_ids) == (3, {3})


@pytest.mark.parametrize("file", ["generation_config", "config"])
@pytest.mark.parametrize("wrong", ["2", 2.0, True, [2, "3"], [[2]]])
def test_what_is_no_id_is_refused(file, wrong, model_folder, tmp_path):
    folder = shutil.copytree(model_folder, tmp_path / "model")
    declare(folder, **{file: {"eos_token_id": wrong}})
    with pytest.raises(CheckpointError, match=f"{file}.json is damaged: eos_token_id"):
        load(folder)


# --- several ends ---------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("options", [{}, dict(stop_strings=("e",)), dict(logprobs=True)], ids=str)
def test_every_text_of_a_batch_stops_at_its_first_end(kind, options, tokenizer):
    model = random_model(vocab_size=tokenizer.vocab_size)
    own = Tokenizer(tokenizer.backend)
    own.end_ids = {3, 50, 51, 52, 53, 54}
    prompts, seeds = [[n, n + 1, n + 2] for n in range(60, 80)], range(20)
    settings = dict(max_new_tokens=60, temperature=1.0, seeds=seeds, **options)
    endless = kind(model, own, 7).generate_ids(prompts, stop=False, **settings)
    found = kind(model, own, 7).generate_ids(prompts, **settings)
    ends = [next((n for n, id in enumerate(ids, 1) if id in own.end_ids), None) for ids in endless]
    assert found == [ids[:end] for ids, end in zip(endless, ends)]
    assert len({ids[-1] for ids in found} & own.end_ids) > 2 or options.get("stop_strings")


@both
def test_a_stream_stops_at_any_end(kind, tokenizer):
    model, own = random_model(vocab_size=tokenizer.vocab_size), Tokenizer(tokenizer.backend)
    own.end_ids = set(range(100, 130))
    settings, lengths = dict(max_new_tokens=60, temperature=1.0), []
    for seed in range(2):
        text = kind(model, own).generate([PROMPT], seed=seed, **settings)[0]
        assert "".join(kind(model, own).stream(PROMPT, seed=seed, **settings)) == text
        lengths.append(len(own.encode(text)))
    assert max(lengths) < 60


class Emits(torch.nn.Module):
    """After a prompt of any length, the tokens given, one after the other."""

    def __init__(self, ids, vocab_size, start):
        super().__init__()
        self.ids, self.V, self.start = ids, vocab_size, start

    def forward(self, tokens_BT):
        B, T = tokens_BT.shape
        logits_BTV = torch.zeros(B, T, self.V)
        logits_BTV[:, -1, self.ids[T - self.start]] = 1.0
        return logits_BTV


@pytest.mark.parametrize("end", [2, 3])
def test_an_answer_is_finished_at_any_end(end, tokenizer):
    own = Tokenizer(tokenizer.backend)
    own.end_ids = {2, 3}
    question = pairs("copy")[0]
    model = Emits(
        [*own.encode(question.answer), end, 9, 9], own.vocab_size, len(own.encode(question.prompt))
    )
    [answer] = answers(Sampler(model, own), [question])
    assert (answer.text, answer.finished) == (question.answer, True)


def test_several_ends_are_saved_and_read_again(tmp_path, tokenizer):
    own = Tokenizer(tokenizer.backend)
    own.end_ids = {2, own.eot_id}
    save(tmp_path, random_model(vocab_size=own.vocab_size), own)
    for name in ("config.json", "generation_config.json"):
        assert json.loads((tmp_path / name).read_text())["eos_token_id"] == [2, 3]
    again = load(tmp_path)[1]
    assert (again.eot_id, again.end_ids) == (3, {2, 3})

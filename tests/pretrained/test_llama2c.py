"""Files of llama2.c, compared with plain versions of its model and its tokenizer."""

import random
import struct
from pathlib import Path

import pytest
import torch
from helpers import ROOT
from pretrained.llama2c_files import H, K, write_llama2c, write_tokenizer_bin
from pretrained.models import refused
from torch.nn import functional as F

from minislm.pretrained.llama2c import read_tokens
from minislm.pretrained.load import load
from minislm.pretrained.save import save
from minislm.sampler import Sampler

TINYSTORIES = ROOT.parent / "shared" / "tinystories"


def reference_encode(file: Path, vocab_size: int, text: str) -> list[int]:
    """`encode` of run.c, line by line: merge the pair with the highest score, again and again."""
    known, scores = read_tokens(file, vocab_size)
    ids = {token: id for id, token in enumerate(known) if id >= 3}
    found = []
    for character in " " + text if text else "":
        if character in ids:
            found.append(ids[character])
        else:
            found += [byte + 3 for byte in character.encode()]
    while True:
        best_score, best_id, best_at = -1e10, -1, -1
        for at, (left, right) in enumerate(zip(found, found[1:])):
            id = ids.get(known[left] + known[right])
            if id is not None and scores[id] > best_score:
                best_score, best_id, best_at = scores[id], id, at
        if best_at < 0:
            return found
        found[best_at : best_at + 2] = [best_id]


@pytest.fixture
def llama2c_model(tmp_path) -> tuple[Path, list[torch.Tensor]]:
    """A folder with the files of a small model, and its tensors."""
    return tmp_path, write_llama2c(tmp_path)


@torch.no_grad()
def llama2c_logits(tensors: list[torch.Tensor], tokens) -> torch.Tensor:
    """The model of llama2.c in plain lines: one row, and rotary pairs as complex numbers."""
    embedding, n1, wq, wk, wv, wo, n2, w1, w2, w3, norm, _, _, head = tensors
    T, D = len(tokens), embedding.shape[1] // H

    def rms(x, weight):
        return x * (x.pow(2).mean(-1, keepdim=True) + 1e-5).rsqrt() * weight

    def rotated(x):  # [T, heads, D] as complex numbers
        angle = torch.outer(torch.arange(T), 10000.0 ** (-torch.arange(0, D, 2) / D))
        pairs = torch.view_as_complex(x.reshape(T, -1, D // 2, 2).contiguous())
        rotation = torch.polar(torch.ones_like(angle), angle)[:, None]
        return torch.view_as_real(pairs * rotation).flatten(2)

    x = embedding[tokens]
    for i in range(len(n1)):
        h = rms(x, n1[i])
        q, k = rotated((h @ wq[i].T).view(T, H, D)), rotated((h @ wk[i].T).view(T, K, D))
        k, v = (y.repeat_interleave(H // K, dim=1) for y in (k, (h @ wv[i].T).view(T, K, D)))
        scores = torch.einsum("thd,shd->hts", q, k) / D**0.5
        scores = scores.masked_fill(torch.ones(T, T).triu(1).bool(), -torch.inf)
        x = x + torch.einsum("hts,shd->thd", scores.softmax(-1), v).flatten(1) @ wo[i].T
        h = rms(x, n2[i])
        x = x + (F.silu(h @ w1[i].T) * (h @ w3[i].T)) @ w2[i].T
    return rms(x, norm) @ head.T


@pytest.mark.parametrize("name", ["v0.bin", "v1.bin"])
def test_a_llama2c_file_computes_what_llama2c_computes(name, llama2c_model):
    folder, tensors = llama2c_model
    model, tokenizer = load(folder / name)
    tokens = torch.randint(0, model.config.vocab_size, (50,))
    expected = llama2c_logits(tensors, tokens)
    assert (model(tokens[None])[0] - expected).abs().max() < 1e-4
    assert not model.config.tied
    save(folder / "saved", model, tokenizer)
    again, same = load(folder / "saved")
    assert torch.equal(again(tokens[None]), model(tokens[None]))
    assert (same.eot_id, same.prompt_ids("the cat")) == (1, tokenizer.prompt_ids("the cat"))


def test_the_llama2c_tokenizer_is_that_of_run_c(llama2c_model):
    file = llama2c_model[0] / "tokenizer.bin"
    model, tokenizer = load(llama2c_model[0] / "v0.bin")
    source = random.Random(0)
    characters = "aaaa   theincrg-\n-éx漢<s>"
    for _ in range(300):
        text = "".join(source.choices(characters, k=source.randrange(30)))
        ids = tokenizer.encode(text)
        assert ids == reference_encode(file, model.config.vocab_size, text), text
        assert tokenizer.decode(ids) == text
        assert tokenizer.prompt_ids(text) == [1, *ids]
    assert tokenizer.eot_id == 1 and tokenizer.decode([1, *tokenizer.encode("cat")]) == "cat"


needs_stories260k = pytest.mark.skipif(
    not (TINYSTORIES / "stories260K.bin").exists(), reason=f"no stories260K.bin in {TINYSTORIES}"
)


@needs_stories260k
def test_stories260k_knows_its_stories():
    model, tokenizer = load(TINYSTORIES / "stories260K.bin")
    with open(TINYSTORIES / "v2-valid.txt", encoding="utf-8") as file:
        stories = file.read(60_000).split("<|endoftext|>")[:-1]
    nats = count = 0
    for story in stories:
        ids = torch.tensor(tokenizer.prompt_ids(story.strip())[: model.config.context + 1])
        with torch.no_grad():
            logits = model(ids[None, :-1])[0]
        nats += float(F.cross_entropy(logits, ids[1:], reduction="sum"))
        count += len(ids) - 1
        text = story.strip()[:200]
        assert tokenizer.encode(text) == reference_encode(TINYSTORIES / "tok512.bin", 512, text)
    assert 1.2 < nats / count < 1.45
    [text] = Sampler(model, tokenizer).generate([""], max_new_tokens=40, temperature=0.0)
    assert text.startswith("Once upon a time, there was a little")


# --- Damaged files --------------------------------------------------------------------------------


@pytest.fixture
def sound_file(llama2c_model) -> Path:
    return llama2c_model[0] / "v0.bin"


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-4],
        lambda data: data + bytes(4),
        lambda data: data[:20],
        lambda data: b"",
        lambda data: bytes(100),
        lambda data: struct.pack("<7i", *[2**31 - 1] * 7) + data[28:],
        lambda data: struct.pack("<7i", 24, 40, 2, 6, 4, -300, 64) + data[28:],
        lambda data: struct.pack("<7i", 24, 40, -2, 6, 2, -300, 64) + data[28:],
        lambda data: struct.pack("<7i", 25, 40, 2, 6, 2, -300, 64) + data[28:],
        lambda data: struct.pack("<Ii", 0x616B3432, 2) + data[8:],
        lambda data: b"PK\3\4" + data[4:],
        lambda data: b"<html>" + data[6:],
    ],
)
def test_a_damaged_llama2c_file(damage, sound_file):
    sound_file.write_bytes(damage(sound_file.read_bytes()))
    refused(sound_file, str(sound_file))


def test_a_llama2c_file_of_another_version(sound_file):
    sound_file.write_bytes(struct.pack("<Ii", 0x616B3432, 2) + sound_file.read_bytes()[8:])
    refused(sound_file, str(sound_file), "version 2")


def test_a_llama2c_file_with_an_endless_context(sound_file):
    file = sound_file.with_name("v1.bin")  # it has no rotary tables, so any context fits its size
    data = file.read_bytes()
    file.write_bytes(data[:32] + struct.pack("<i", 2**30) + data[36:])
    refused(file, str(file), str(2**30))


def test_a_llama2c_tokenizer_that_does_not_fit(sound_file):
    file = sound_file.with_name("tokenizer.bin")
    sound = file.read_bytes()
    for data in (
        sound[:-1],
        sound + b"\0",
        b"",
        sound[:4] + struct.pack("<fi", 0.0, -1) + sound[12:],
        sound[:4] + struct.pack("<fi", 0.0, 2**31 - 1) + sound[12:],
        sound.replace(b"<0x41>", b"<0x42>"),
        sound.replace(b"<0x41>", b"<byte>"),
        sound.replace(b" cat", b"\xffcat"),
        sound.replace(b" cat", b" the"),
    ):
        file.write_bytes(data)
        refused(sound_file, str(file))
    file.unlink()
    refused(sound_file, str(sound_file), "tokenizer.bin")
    write_tokenizer_bin(file, ["ab"])
    refused(sound_file, str(file))

"""Models without positions, or with places in a run, are sampled by `FastSampler` too."""

import pytest
from helpers import random_model, random_prompts

from minislm import FastSampler, Sampler

OPTIONS = [
    {"position": "none"},
    {"position": "run", "run_tokens": tuple(range(100))},
    {"position": "rotary", "qk_scale": 8.0, "null_cosine": 0.5},
]


@pytest.mark.parametrize("options", OPTIONS, ids=["none", "run", "null key"])
def test_both_samplers_give_the_same_tokens(options):
    model, prompts = random_model(**options), random_prompts([3, 17, 40, 5])
    settings = dict(max_new_tokens=30, temperature=0.0, stop=False)
    assert FastSampler(model).generate_ids(prompts, **settings) == Sampler(model).generate_ids(
        prompts, **settings
    )

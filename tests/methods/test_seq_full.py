import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from gorp.backbones import load_backbone
from gorp.checkpoint import load_tensors, random_state, save_tensors, set_random_state
from gorp.encoding import Encoder, answer_loss
from gorp.methods.seq_full import SeqFull
from gorp.plan import Plan
from gorp.progress import SilentProgress
from gorp.run_config import RunConfig
from gorp.tasks import TaskStream
from gorp.training import train_task

TRAINING = {"epochs": 1, "batch_size": 4, "lr": 1e-3, "weight_decay": 0.1, "max_grad_norm": 0.5}


@pytest.fixture
def setup(tiny_models, tiny_stream, tmp_path):
    """A model under seq-full, its encoder, and the plan of one task's training."""

    def make(kind, dtype="float32"):
        config = RunConfig.from_mapping({"method": "seq-full", "training": TRAINING})
        backbone = load_backbone(str(tiny_models[kind]), dtype)
        method = SeqFull(config)
        method.attach(backbone.model)
        encoder = Encoder(backbone.model, backbone.tokenizer)
        rows = encoder.rows(TaskStream.from_yaml(tiny_stream)[0].train[:16])
        return method, encoder, Plan(rows, config.training, seed=3, folder=tmp_path)

    return make


def train(method, encoder, plan, random_then=None):
    optimizer, progress = method.optimizer(), SilentProgress()
    train_task(method.model, method, optimizer, encoder, plan, progress, lambda flight: None, None, random_then)


@pytest.mark.parametrize("kind", ["seq2seq", "causal"])
def test_it_is_plain_adamw_over_the_same_batches(setup, kind):
    method, encoder, plan = setup(kind)
    random_then = random_state()
    train(method, encoder, plan, random_then)
    plain, _, _ = setup(kind)
    model = plain.model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1)
    set_random_state(random_then)
    for rows in plan.batches(0):
        batch = encoder.training_batch(rows)
        tokens = int((batch["labels"] != -100).sum())
        (answer_loss(encoder.logits(model, batch), batch["labels"]) / tokens).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
        optimizer.zero_grad()
    for name, weight in method.weights().items():
        assert torch.equal(weight, model.state_dict()[name]), name


@pytest.mark.parametrize("kind", ["seq2seq", "causal"])
def test_every_parameter_moves_however_it_was_stored(setup, kind):
    method, encoder, plan = setup(kind, "bfloat16")
    before = {name: value.clone() for name, value in method.model.named_parameters()}
    train(method, encoder, plan)
    for name, value in method.model.named_parameters():
        assert value.dtype is torch.float32
        assert not torch.equal(value, before[name]), name
    for name, weight in method.effective_weights().items():
        assert torch.equal(weight, method.model.get_submodule(name).weight)


def test_tied_weights_stay_tied_through_a_file(tmp_path):
    def attach():
        size = {"vocab_size": 16, "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1}
        model = LlamaForCausalLM(LlamaConfig(**size, num_attention_heads=2, tie_word_embeddings=True))
        method = SeqFull(RunConfig(method="seq-full"))
        method.attach(model.bfloat16())
        return method

    method, again = attach(), attach()
    save_tensors(tmp_path / "weights.safetensors", method.weights())
    again.load_weights(load_tensors(tmp_path / "weights.safetensors"))
    embedding, head = again.model.model.embed_tokens.weight, again.model.lm_head.weight
    assert embedding is head
    assert torch.equal(head, method.model.lm_head.weight)
    assert sum(parameter is head for group in again.optimizer().param_groups for parameter in group["params"]) == 1

import math

import pytest
import torch

from gorp.backbones import load_backbone
from gorp.encoding import Encoder, answer_loss
from gorp.methods.migu import MIGU, large_units
from gorp.methods.seq_lora import SeqLoRA
from gorp.run_config import RunConfig
from gorp.tasks import TaskStream


class Setup:
    """Random factors of rank 8 on a tiny model, and batches of unlike lengths."""

    def __init__(self, folder, stream):
        self.folder = folder
        backbone = load_backbone(str(folder))
        self.encoder = Encoder(backbone.model, backbone.tokenizer)
        self.task = TaskStream.from_yaml(stream)[0]
        rows = self.encoder.rows(self.task.train)
        self.batches = [self.encoder.training_batch(rows[first : first + 4]) for first in (0, 4)]

    def attach(self, method_class, zero_B=False, **options):
        method = method_class(RunConfig.from_mapping({"method": method_class.name, "options": options}))
        torch.manual_seed(0)
        method.attach(load_backbone(str(self.folder)).model)
        with torch.no_grad():
            for name, factor in factors(method).items():
                factor.weight.normal_(std=0 if zero_B and "lora_B" in name else 0.1)
        method.begin_task(self.task, 1)
        return method

    def gradients(self, method):
        """Gradients of the factors after a step of two forward passes; dropout is on, and the same every time."""
        method.model.train()
        torch.manual_seed(1)
        for batch in self.batches:
            logits = self.encoder.logits(method.model, method.prepare(batch))
            answer_loss(logits, batch["labels"]).backward()
        return {name: factor.weight.grad.clone() for name, factor in factors(method).items()}


def factors(method):
    ends = (".lora_A.default", ".lora_B.default")
    return {name: module for name, module in method.model.named_modules() if name.endswith(ends)}


@pytest.fixture(params=["seq2seq", "causal"])
def setup(request, tiny_models, tiny_stream):
    return Setup(tiny_models[request.param], tiny_stream)


def test_small_units_have_no_gradient_and_large_ones_all_of_theirs(setup):
    plain = setup.attach(SeqLoRA)
    outputs = {name: [] for name in factors(plain)}
    for name, factor in factors(plain).items():
        factor.register_forward_hook(lambda _, inputs, output, name=name: outputs[name].append(output.detach()))
    gradients = setup.gradients(plain)
    for name, masked in setup.gradients(setup.attach(MIGU)).items():
        tokens = [token.abs() for output in outputs[name] for token in output.flatten(0, -2)]
        sizes = sum(token / token.sum() for token in tokens if token.any()) / len(tokens)  # padding may be 0
        left_out = math.ceil(0.7 * (len(sizes) - 1))
        small, large = sizes.argsort().split([left_out, len(sizes) - left_out])
        assert not masked[small].any(), name
        assert gradients[name][small].any()
        assert torch.equal(masked[large], gradients[name][large])


def test_masks_are_made_anew_each_step(setup):
    method = setup.attach(MIGU)
    first = setup.gradients(method)
    method.model.zero_grad()
    again = setup.gradients(method)
    assert all(torch.equal(first[name], gradient) for name, gradient in again.items())


def test_without_a_threshold_it_is_seq_lora(setup):
    masked = setup.gradients(setup.attach(MIGU, threshold=0.0))
    plain = setup.gradients(setup.attach(SeqLoRA))
    assert all(torch.equal(masked[name], gradient) for name, gradient in plain.items())


def test_the_first_task_is_learnt_by_every_unit(setup):
    method = setup.attach(MIGU)
    method.begin_task(setup.task, 0)
    plain = setup.gradients(setup.attach(SeqLoRA))
    assert all(torch.equal(plain[name], gradient) for name, gradient in setup.gradients(method).items())


def test_every_unit_of_B_learns_from_zero(setup):
    for name, gradient in setup.gradients(setup.attach(MIGU, zero_B=True)).items():
        if "lora_B" in name:
            assert gradient.any(dim=1).all()


def test_units_at_the_quantile_learn():
    sizes = torch.tensor([4.0, 1, 3, 2, 5])
    assert large_units(sizes, 0.5).tolist() == [True, False, True, False, True]
    assert large_units(sizes, 0.6).tolist() == [True, False, False, False, True]
    assert large_units(torch.zeros(4), 0.7).all()

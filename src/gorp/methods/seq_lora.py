"""seq-lora: one LoRA that learns task after task with nothing to protect what it learnt; it forgets."""

from gorp.methods.plain_lora import PlainLoRA


class SeqLoRA(PlainLoRA):
    """The same factors go through all tasks and are never merged."""

    name = "seq-lora"
    source = "Hu et al. 2022, LoRA (ICLR), trained on one task after the other"
    keeps = "nothing"
    costs = "LoRA's"

"""joint: all tasks at once, the bound that methods without old data are measured against."""

from gorp.methods.plain_lora import PlainLoRA


class Joint(PlainLoRA):
    """One LoRA trained on the rows of all tasks together, in a single stage."""

    name = "joint"
    source = "the bound that methods without old data are measured against"
    keeps = "the rows of every task"
    costs = "LoRA's; learns all tasks at once, so a new task means learning all of them again"
    keeps_old_rows = True
    learns_jointly = True

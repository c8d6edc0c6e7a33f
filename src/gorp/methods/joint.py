"""joint: all tasks at once, the bound that methods without old data are measured against."""

from gorp.methods.plain_lora import PlainLoRA


class Joint(PlainLoRA):
    """One LoRA trained on the rows of all tasks together, in a single stage."""

    name = "joint"
    learns_jointly = True

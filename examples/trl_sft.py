"""GORP in TRL's SFTTrainer: a small LLaMA learns two sets of facts, and what the first one loses."""

from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, set_seed
from trl import SFTConfig, SFTTrainer

import gorp

set_seed(0)
fruits = ["apple", "lemon", "plum", "pea", "leek", "fig", "lime", "beet", "cherry", "kale", "pear", "corn"]
facts = {"colour": ["red", "yellow", "blue", "green"] * 3, "place": ["tree"] * 4 + ["field"] * 4 + ["shop"] * 4}
words = ["<pad>", "</s>", "<s>", "?", "which", "of", *facts, *fruits, *sorted({*facts["colour"], *facts["place"]})]
core = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="?"))
core.pre_tokenizer = pre_tokenizers.Whitespace()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", eos_token="</s>", bos_token="<s>")
special = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2, "initializer_range": 0.2}
sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
model = LlamaForCausalLM(LlamaConfig(vocab_size=len(words), **sizes, **special))

gorp.attach(model, gorp.GORPConfig(lora_targets=["self_attn"], full_rank_targets=["mlp"], rank=8))
optimizer = gorp.GORPAdamW(gorp.param_groups(model), lr=5e-3, full_rank_lr=5e-3)
layers = gorp.learned_layers(model)
rows = {
    task: [
        {"prompt": f"which {task} of {fruit} ?", "completion": f" {answer}"}
        for fruit, answer in zip(fruits, told, strict=True)
    ]
    for task, told in facts.items()
}


def score(task):
    """Percent of the facts that are known."""
    logits = model.eval()(**tokenizer([row["prompt"] for row in rows[task]], return_tensors="pt")).logits
    answers = tokenizer.convert_ids_to_tokens(logits[:, -1].argmax(-1).tolist())
    return 100 * sum(answer == told for answer, told in zip(answers, facts[task], strict=True)) / len(answers)


for task in facts:
    before = {name: layer.effective_weight().double() for name, layer in layers.items()}
    kept = {name: layer.space.basis.double() for name, layer in layers.items()}
    callback = gorp.GORPCallback(end_task=task)  # meters in every log; ends the task when training is done
    settings = SFTConfig(
        "runs/trl_sft", num_train_epochs=30, bf16=False, save_strategy="no", dataloader_pin_memory=False
    )
    trainer = SFTTrainer(
        model, settings, train_dataset=Dataset.from_list(rows[task]), processing_class=tokenizer,
        optimizers=(optimizer, None), callbacks=[callback],
    )  # fmt: skip
    trainer.train()

    seen = callback.reading.overall
    change = {name: layer.effective_weight().double() - before[name] for name, layer in layers.items()}
    leak = max(float((change[name] @ kept[name]).norm() / change[name].norm()) for name in layers)
    print(f"after {task}: " + ", ".join(f"{each} {score(each):.0f}" for each in facts))
    print(f"  of the change, on directions of earlier tasks: {leak:.0e} at most, from the weights")
    print(f"  of the gradient, removed by protection: {seen.blocked_energy:.0%}; room left: {seen.capacity_left:.0%}")

"""From a row's text to a prompt, and from a prompt to token ids no longer than a model takes.

The prompt is that of the benchmark (O-LoRA's ``CL_Benchmark``), byte for byte::

    [Task:<task>
    Dataset:<dataset>
    ]<instruction>
    Option: <labels joined by ", "> <a blank>
    <text>
    Answer:

The first two lines tell the model which task it is asked, also at test time; they are off by default. A task may have
other cues than these before its text and its answer.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from jinja2 import TemplateError

from gorp.errors import InputError
from gorp.tasks.task import Example

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

#: What of a text may be cut unless the task says otherwise: all of it, but for a line break at its end.
WHOLE_TEXT = r"(?s)(.*?)\n?"

#: For texts of which nothing may be cut.
NOTHING = r"(?s).*"

#: What a prompt of `Template` ends with: a line of one word and a colon.
_CUE = re.compile(r"\n\w+:\Z")

#: How much of the end of a free-form prompt is never cut, in characters: the question and the cue stand there.
KEPT_PROMPT_END = 400


@dataclass(frozen=True)
class Template:
    """How a task's texts become prompts.

    ``passage`` is a regular expression for the whole text; the longest of its groups is what may be cut, and nothing
    may be where it does not match. ``labels`` are those the prompt lists, none for a free answer. ``header`` is put
    before everything, ``text_cue`` before the text, ``answer_cue`` on a line of its own after it.
    """

    instruction: str = ""
    labels: tuple[str, ...] = ()
    passage: str = WHOLE_TEXT
    header: str = ""
    text_cue: str = ""
    answer_cue: str = "Answer:"

    def example(self, text: str, answer: str, references: tuple[str, ...] = ()) -> Example:
        """Return the example that asks for ``answer`` on ``text``."""
        instruction = self.instruction + "\n" if self.instruction and self.instruction[-1] != "\n" else self.instruction
        before = f"{self.header}{instruction}{_options_line(self.labels)}{self.text_cue}"
        start, end = _longest_group(self.passage, text)
        span = (len(before) + start, len(before) + end)
        return Example(f"{before}{text}\n{self.answer_cue}", answer, span, references)


def prompt_example(prompt: str, answer: str) -> Example:
    """Return the example of a ready prompt: its beginning may be cut, its last ``KEPT_PROMPT_END`` characters not."""
    return Example(prompt, answer, (0, max(0, len(prompt) - KEPT_PROMPT_END)))


def messages_example(turns: tuple[tuple[str, str], ...], answer: str) -> Example:
    """Return the example of a conversation: its longest turn may be cut, but for the end of the last one.

    ``encode`` renders it with the tokenizer's chat template where there is one, and as ``role: content`` lines
    otherwise.
    """
    prompt = "".join(f"{role}: {content}\n" for role, content in turns) + "assistant:"
    start, end = _turn_span(prompt, turns)
    return Example(prompt, answer, (start, end), messages=turns)


def without_options(example: Example) -> Example:
    """Return the example as a model reads it that is given the options apart: without their list and without the cue.

    The list is taken out where `Template` puts it, before what may be cut, never from within a passage.
    """
    prompt, (start, end) = _CUE.sub("", example.prompt), example.truncatable
    line = _options_line(example.options)
    at = prompt.find(line, 0, start)
    if line and at >= 0:
        prompt = prompt[:at] + prompt[at + len(line) :]
        start, end = start - len(line), end - len(line)
    return replace(example, prompt=prompt, truncatable=(min(start, len(prompt)), min(end, len(prompt))))


def _options_line(labels: tuple[str, ...]) -> str:
    return f"Option: {', '.join(labels)} \n" if labels else ""


def encode(example: Example, tokenizer: PreTrainedTokenizerBase, max_source_length: int | None) -> list[int]:
    """Return the prompt's token ids, special tokens included, at most ``max_source_length`` of them.

    Works with tokenizers of seq2seq models (which end the ids) and of causal ones (which begin them). A prompt that
    is too long loses the end of its truncatable span, at a word's end where there is one, and nothing else.

    Raises:
        InputError: the prompt does not fit even without its truncatable span.
    """
    prompt, (start, end), tokenize = _rendered(example, tokenizer)
    ids = tokenize(prompt)
    if max_source_length is None or len(ids) <= max_source_length:
        return ids
    longest, kept, least = len(ids), start, tokenize(prompt[:start] + prompt[end:])
    if len(least) > max_source_length:
        raise InputError(
            f"a prompt takes {len(least)} tokens without the part that may be cut, max_source_length is "
            f"{max_source_length}: raise it to {len(least)} or more. The prompt ends: {prompt[-60:]!r}"
        )
    ids, unfit, halve = least, end, False
    while unfit - kept > 1 and len(ids) < max_source_length:  # prompt[:kept] + prompt[end:] fits, up to unfit does not
        share = 0.5 if halve else (max_source_length - len(ids)) / (longest - len(ids))
        halve = not halve  # tokens are spread evenly, as a rule: guess by proportion, but every other time by half
        middle = min(max(kept + round(share * (unfit - kept)), kept + 1), unfit - 1)
        candidate = tokenize(prompt[:middle] + prompt[end:])
        if len(candidate) <= max_source_length:
            kept, ids = middle, candidate
        else:
            unfit, longest = middle, len(candidate)
    at_word = tokenize(prompt[:start] + _whole_words(prompt[start:end], kept - start) + prompt[end:])
    return at_word if len(at_word) <= max_source_length else ids


def _longest_group(pattern: str, text: str) -> tuple[int, int]:
    match = re.fullmatch(pattern, text)
    spans = [match.span(group) for group in range(1, match.re.groups + 1)] if match else []
    return max(spans, key=lambda span: span[1] - span[0], default=(0, 0))


def _whole_words(passage: str, length: int) -> str:
    """Return the first ``length`` characters of ``passage`` or a little less, so as not to end inside a word."""
    head = passage[:length]
    if not passage[length : length + 1].strip():
        return head
    return re.sub(r"\s+\S*$", "", head)


def _turn_span(prompt: str, turns: tuple[tuple[str, str], ...]) -> tuple[int, int]:
    """Return where the longest turn's content stands in a rendered conversation, without the last turn's end."""
    position, best = 0, (0, 0)
    for index, (_, content) in enumerate(turns):
        start = prompt.find(content, position)
        if start < 0:  # a template that trims or rewrites a turn: that one is not cut
            continue
        position = end = start + len(content)
        if index == len(turns) - 1:
            end = max(start, end - KEPT_PROMPT_END)
        best = max(best, (start, end), key=lambda span: span[1] - span[0])
    return best


def _rendered(
    example: Example, tokenizer: PreTrainedTokenizerBase
) -> tuple[str, tuple[int, int], Callable[[str], list[int]]]:
    """Return the prompt as this tokenizer's model expects it, what of it may be cut, and how to turn it into ids."""
    chat = bool(example.messages) and bool(tokenizer.chat_template)
    if chat:
        turns = [{"role": role, "content": content} for role, content in example.messages]
        try:
            prompt = str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))
        except TemplateError as error:
            raise InputError(
                f"the model's chat template refuses turns of {', '.join(role for role, _ in example.messages)} "
                f"({error}); accepted: turns that it takes"
            ) from None
        span = _turn_span(prompt, example.messages)
    else:
        prompt, span = example.prompt, example.truncatable

    def tokenize(text: str) -> list[int]:
        # A chat template writes the special tokens itself. Not verbose: longer than the model takes is what we ask
        # about.
        ids: list[int] = tokenizer(text, add_special_tokens=not chat, verbose=False)["input_ids"]
        return ids

    return prompt, span, tokenize

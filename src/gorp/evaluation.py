"""Answering prompts, greedily or with the likeliest or nearest option; scoring answers: exact match, or ROUGE-L."""

from __future__ import annotations

import string
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn
from transformers import GenerationConfig, LogitsProcessorList, PreTrainedModel

from gorp._ranks import of_all_ranks, rank, ranks
from gorp._shards import has_spread
from gorp.encoding import Batch, Encoder
from gorp.errors import GorpError
from gorp.likelihood import log_likelihoods
from gorp.matching import LabelMatcher, embed, match
from gorp.rouge import load_rouge_l
from gorp.run_config import Answers
from gorp.tasks import Example
from gorp.tasks.task import Metric

_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
OnStep = Callable[[int, int], None]
AnswerPart = Callable[["Prompts", Sequence[int]], list[str]]


def normalise(answer: str) -> str:
    """Lower case, no punctuation, single spaces, and characters as Unicode's NFKC has them, as most tokenizers do."""
    return " ".join(unicodedata.normalize("NFKC", answer).lower().translate(_NO_PUNCTUATION).split())


def is_match(answer: str, example: Example) -> bool:
    """Whether an answer equals the example's, or another accepted one, after normalisation.

    Where that leaves nothing of an accepted answer (``+``), or makes two options one (``C`` and ``C++``), they are
    compared as they stand, but for blanks.
    """
    accepted = (example.answer, *example.references)
    form = normalise if all(map(normalise, accepted)) and _stay_apart(example.options) else _single_spaced
    return form(answer) in map(form, accepted)


@cache
def _stay_apart(options: tuple[str, ...]) -> bool:
    """Whether no two options are the same once normalised."""
    return len(set(map(normalise, options))) == len(options)


def _single_spaced(answer: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", answer).split())


def exact_match(answers: Sequence[str], examples: Sequence[Example]) -> float:
    """Percent of answers that match; examples must not be empty."""
    hits = sum(is_match(answer, example) for answer, example in zip(answers, examples, strict=True))
    return 100.0 * hits / len(examples)


@dataclass(frozen=True)
class Prompts:
    """Prompts in token ids, longest first, and how long an answer may get, in tokens and in lines."""

    ids: list[tuple[int, ...]]
    order: list[int]  # ids[k] belongs to example order[k]
    max_new_tokens: int
    max_lines: int

    @classmethod
    def of(cls, examples: Sequence[Example], encoder: Encoder, max_new_tokens: int | None = None) -> Prompts:
        """Encode once what is answered many times.

        The longest accepted answer bounds the length of answers where ``max_new_tokens`` does not.
        """
        prompts = [encoder.row(example).prompt for example in examples]
        order = sorted(range(len(prompts)), key=lambda index: (-len(prompts[index]), index))
        accepted = {answer: example for example in examples for answer in (example.answer, *example.references)}
        longest = max((len(encoder.answer_ids(answer, example)) for answer, example in accepted.items()), default=0)
        lines = max((answer.strip().count("\n") for answer in accepted), default=0)
        most = (longest + 1, lines + 1) if max_new_tokens is None else (max_new_tokens, max_new_tokens)
        return cls([prompts[index] for index in order], order, *most)


class Evaluator:
    """Scores a model on examples, again and again: each list of examples is encoded once.

    Args:
        model: of any kind.
        encoder: the model's.
        batch_size: prompts answered together; the score does not depend on it.
        precision: ``bf16`` answers under autocast.
        prepare: what a method does to a batch of prompts before the model sees it.
        answers: ``generated``; or ``options``, the likeliest of a row's own where it has some. An encoder chooses the
            nearest always.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        encoder: Encoder,
        batch_size: int = 64,
        precision: str = "fp32",
        prepare: Callable[[Batch], Batch] = dict,
        answers: Answers = "generated",
    ) -> None:
        self.model, self.encoder, self.batch_size, self.precision = model, encoder, batch_size, precision
        self.prepare, self.answers = prepare, answers
        self._prompts: dict[tuple[tuple[Example, ...], int | None], Prompts] = {}

    def score(
        self, examples: Sequence[Example], on_step: OnStep | None = None, metric: Metric = "exact_match"
    ) -> float:
        """Score in percent, the mean over the examples; otherwise as `score_rows`."""
        rows = self.score_rows(examples, on_step, metric)
        return sum(rows) / len(rows)

    def score_rows(
        self, examples: Sequence[Example], on_step: OnStep | None = None, metric: Metric = "exact_match"
    ) -> list[float]:
        """The score of each example in percent.

        Raises:
            GorpError: the metric needs a library that is not installed; raised before anything is answered.
        """
        score = load_rouge_l() if metric == "rouge_l" else exact_match
        answers = self.predict(examples, on_step)
        return [score([answer], [example]) for answer, example in zip(answers, examples, strict=True)]

    def predict(
        self, examples: Sequence[Example], on_step: OnStep | None = None, max_new_tokens: int | None = None
    ) -> list[str]:
        """The model's answer to each example, in the order given; ``on_step(done, total)`` is called per batch.

        Args:
            max_new_tokens: of an answer that is generated; if not given, no more than the longest right one has.

        Raises:
            GorpError: the model's outputs are not finite.
        """
        key = tuple(examples)
        if (key, max_new_tokens) not in self._prompts:
            self._prompts[key, max_new_tokens] = Prompts.of(examples, self.encoder, max_new_tokens)
        prompts = self._prompts[key, max_new_tokens]
        answered: list[tuple[int, str]] = []
        done = 0
        with evaluating(self.model), without_gradients(self.model), autocast(self.model.device, self.precision):
            for answer_part, places in self._ways_to_answer(key, prompts):
                parts = [places[first : first + self.batch_size] for first in range(0, len(places), self.batch_size)]
                for first in range(0, len(parts), ranks()):  # a part each, the last one twice rather than none
                    part = parts[min(first + rank(), len(parts) - 1)]
                    answered += zip(part, answer_part(prompts, part), strict=True)
                    done += sum(map(len, parts[first : first + ranks()]))
                    if on_step:
                        on_step(done, len(examples))
        answers = {prompts.order[place]: answer for own in of_all_ranks(answered) for place, answer in own}
        return [answers[index] for index in range(len(examples))]

    def _ways_to_answer(self, examples: Sequence[Example], prompts: Prompts) -> list[tuple[AnswerPart, Sequence[int]]]:
        """How prompts are answered, and the places of those that are."""
        everywhere = range(len(prompts.ids))
        if isinstance(self.encoder, LabelMatcher):
            return [(self._nearest(self.encoder, examples), everywhere)]
        if self.answers == "generated":
            return [(self._generate, everywhere)]
        has_options = [bool(examples[index].options) for index in prompts.order]
        return [
            (self._likeliest(examples), [place for place in everywhere if has_options[place]]),
            (self._generate, [place for place in everywhere if not has_options[place]]),
        ]

    def _inputs(self, prompts: Prompts, part: Sequence[int]) -> Batch:
        batch = self.encoder.prompt_batch([prompts.ids[place] for place in part])
        batch.pop("position_ids", None)
        return self.prepare({name: value.to(self.model.device) for name, value in batch.items()})

    def _generate(self, prompts: Prompts, part: Sequence[int]) -> list[str]:
        settings = GenerationConfig(  # type: ignore[no-untyped-call]  # transformers
            use_cache=True, **self.encoder.generating(prompts.max_new_tokens)
        )
        inputs = self._inputs(prompts, part)
        checks = LogitsProcessorList([_refuse_not_finite])
        generated: torch.Tensor = self.model.generate(  # type: ignore[operator]
            **inputs, generation_config=settings, logits_processor=checks, synced_gpus=has_spread(self.model)
        )
        prompt_length = inputs["input_ids"].shape[1] if self.encoder.kind == "causal" else 0
        texts = self.encoder.tokenizer.batch_decode(generated[:, prompt_length:], skip_special_tokens=True)
        return ["\n".join(text.strip().split("\n")[: prompts.max_lines]).strip() for text in texts]

    def _likeliest(self, examples: Sequence[Example]) -> AnswerPart:
        """How prompts are answered with the likeliest of their options."""

        def choose(prompts: Prompts, part: Sequence[int]) -> list[str]:
            rows = [examples[prompts.order[place]] for place in part]
            ids = [self.encoder.option_ids(row) for row in rows]
            scores = log_likelihoods(self.model, self.encoder, self._inputs(prompts, part), ids, self.batch_size)
            check_finite(torch.stack([torch.tensor(own).amax() for own in scores]))
            return [row.options[own.index(max(own))] for row, own in zip(rows, scores, strict=True)]

        return choose

    def _nearest(self, matcher: LabelMatcher, examples: Sequence[Example]) -> AnswerPart:
        """How prompts are answered with the nearest of their options; every label is embedded once, here."""
        labels = list(dict.fromkeys(label for example in examples for label in example.options))
        column = {label: index for index, label in enumerate(labels)}
        embedded: list[Tensor] = []
        for first in range(0, len(labels), self.batch_size):
            names = matcher.prompt_batch([matcher.name_ids(label) for label in labels[first : first + self.batch_size]])
            embedded.append(embed(self.model, {key: value.to(self.model.device) for key, value in names.items()}))
        vectors = torch.cat(embedded)  # (labels, width)

        def choose(prompts: Prompts, part: Sequence[int]) -> list[str]:
            is_option = torch.zeros(len(part), len(labels), dtype=torch.bool)
            for row, place in enumerate(part):
                is_option[row, [column[label] for label in examples[prompts.order[place]].options]] = True
            texts = embed(self.model, matcher.forward_inputs(self._inputs(prompts, part)))
            scores = match(texts, vectors, is_option.to(vectors.device))
            check_finite(scores.amax(dim=1))
            return [labels[index] for index in scores.argmax(dim=1).tolist()]

        return choose


def check_finite(best: Tensor) -> None:
    """Refuse to answer by scores of which the best is NaN or infinite: it would be an answer as good as drawn.

    Raises:
        GorpError: one of ``best``, of any shape, is.
    """
    if not bool(torch.isfinite(best).all()):
        raise GorpError(
            "the model's outputs are not finite, so that there is nothing to score; what was saved stands. A lower "
            "learning rate, in a new run, or precision fp32 may help"
        )


def _refuse_not_finite(tokens: Tensor, scores: Tensor) -> Tensor:
    """As a logits processor: scores (prompts, vocabulary) of the next token, passed on as they are."""
    check_finite(scores.amax(dim=-1))
    return scores


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, without dropout; the mode there was comes back."""
    was_training = model.training
    model.train(False)
    try:
        yield
    finally:
        model.train(was_training)


def without_gradients(model: nn.Module) -> AbstractContextManager[object]:
    """Inference mode; of weights that are gathered for a while no gradients alone, for they are trained with later."""
    return torch.no_grad() if has_spread(model) else torch.inference_mode()


def autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """Autocast to bfloat16 where ``precision`` is ``bf16``; nothing where it is ``fp32``."""
    return torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else nullcontext()

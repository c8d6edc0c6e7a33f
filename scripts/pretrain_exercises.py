"""Questions made from texts alone, in the benchmark's prompt form, for `pretrain_tiny.py`."""

from __future__ import annotations

import collections
import random
import re
from typing import ClassVar

import numpy as np
from pretrain_data import paragraphs, words

WORD = re.compile(r"[A-Za-z_][A-Za-z_]{2,}")
STOP = frozenset(
    words("""
    the and for are not this that with from will can has was but all you its which when into than then also only any
    each same such one two more have been must does they their there other these those may use used using see where
    what how
""")
)
LABELS = frozenset(
    words("""
    numpy pandas matplotlib networkx sympy huggingface_hub parameters returns raises notes examples parameter return
    see also combinatorics geometry ntheory physics stats statistics number theory mechanics quantum yes no
""")
)
CHOOSE = " Choose one from the option.\n"


class Exercises:
    """Questions about a text that the text itself answers; no exercise knows where its text comes from.

    `make(rng)` gives (kind, prompt, answer). Prompts have the benchmark's form; words of the stream's labels are never
    options put into a question.
    """

    KINDS: ClassVar[dict[str, int]] = {
        "occurs": 14,
        "missing": 16,
        "name": 14,
        "line": 8,
        "together": 8,
        "present": 6,
        "after": 10,
        "quoted": 8,
        "listed": 8,
        "repeat": 4,
        "ends": 4,
    }

    def __init__(self, texts: list[list[str]]) -> None:
        self.named = [
            (signature.partition("(")[0], text)
            for signature, text in texts
            if len(signature.partition("(")[0]) > 3 and len(text) > 60 and not signature.startswith("__")
        ]
        self.by_text = [pieces for _, text in texts if (pieces := [p for p in paragraphs(text) if len(p) > 30])]
        counts = collections.Counter(
            w for _, text in texts for w in set(WORD.findall(text)) if w.lower() not in STOP | LABELS
        )
        self.words = [w for w, n in counts.items() if n >= 4]
        self.weights = np.cumsum([counts[w] ** 0.5 for w in self.words]).tolist()
        self.known = set(self.words)

    def make(self, rng: random.Random, kind: str | None = None) -> tuple[str, str, str]:
        """An exercise of the given or a random kind: (kind, prompt, answer)."""
        kind = kind or rng.choices(list(self.KINDS), list(self.KINDS.values()))[0]
        while True:
            made: tuple[str, str] | None = getattr(self, kind)(rng)
            if made is not None and made[1].strip():
                return kind, made[0], made[1].strip()

    def passage(self, rng: random.Random, longest: int = 230) -> str:
        """Some successive paragraphs of one docstring, cut to `longest` characters or fewer."""
        pieces = rng.choice(self.by_text)
        text = "\n".join(pieces[rng.randrange(len(pieces)) :])
        longest = rng.randint(70, longest)
        return text if len(text) <= longest else text[:longest].rpartition(" ")[0] or text[:longest]

    def word(self, rng: random.Random) -> str:
        """A word of the corpus, frequent ones more often."""
        return rng.choices(self.words, cum_weights=self.weights)[0]

    def others(self, rng: random.Random, text: str, n: int) -> list[str]:
        """`n` words that do not occur in `text`."""
        found: list[str] = []
        while len(found) < n:
            word = self.word(rng)
            if word.lower() not in text.lower() and word not in found:
                found.append(word)
        return found

    @staticmethod
    def choice(rng: random.Random, question: str, options: list[str], text: str, answer: str) -> tuple[str, str]:
        """The prompt that asks for one of the shuffled `options`, and its answer."""
        options = list(options)
        rng.shuffle(options)
        return f"{question}{CHOOSE}Option: {', '.join(options)} \n{text}\nAnswer:", answer

    def _keyword(self, rng: random.Random) -> tuple[str, str] | None:
        text = self.passage(rng)
        found = [w for w in WORD.findall(text) if w in self.known]
        return (text, rng.choice(found)) if len(found) >= 4 else None

    def occurs(self, rng: random.Random) -> tuple[str, str] | None:
        """Which of these words occurs in the text?"""
        if (picked := self._keyword(rng)) is None:
            return None
        text, word = picked
        question = rng.choice(
            ["Which of the words occurs in the following text?", "Which option is mentioned in the following text?"]
        )
        return self.choice(rng, question, [word, *self.others(rng, text, rng.randint(1, 6))], text, word)

    def missing(self, rng: random.Random) -> tuple[str, str] | None:
        """Which of these words was taken out of the text?"""
        if (picked := self._keyword(rng)) is None:
            return None
        text, word = picked
        text = re.sub(rf"\b{re.escape(word)}\b", "___", text)
        return self.choice(
            rng,
            "Which word is missing in the following text?",
            [word, *self.others(rng, text, rng.randint(1, 6))],
            text,
            word,
        )

    def name(self, rng: random.Random) -> tuple[str, str] | None:
        """Which of these names is that of the function described?"""
        name, text = rng.choice(self.named)
        text = text[: rng.randint(80, 230)].rpartition(" ")[0]
        if name in text or len(text) < 40:
            return None
        options = [name, *(rng.choice(self.named)[0] for _ in range(rng.randint(1, 4)))]
        return (
            self.choice(rng, "Which name belongs to the following text?", options, text, name)
            if len(set(options)) > 1
            else None
        )

    def line(self, rng: random.Random) -> tuple[str, str] | None:
        """Which of these lines was taken out of the text?"""
        lines = [x.strip() for x in self.passage(rng, 300).split("\n")]
        lines = [x for x in lines if len(x) > 12]
        if len(lines) < 4:
            return None
        at = rng.randrange(1, len(lines))
        answer = lines.pop(at)[:40].replace(",", "").strip()
        other = [x.strip() for _ in range(3) for x in self.passage(rng).split("\n") if len(x.strip()) > 12]
        options = [
            answer,
            *(x[:40].replace(",", "").strip() for x in rng.sample(other, min(len(other), rng.randint(1, 2)))),
        ]
        text = "\n".join(lines)[:200]
        return (
            self.choice(rng, "Which line belongs to the following text?", options, text, answer)
            if len(set(options)) > 1
            else None
        )

    def together(self, rng: random.Random) -> tuple[str, str] | None:
        """Do two paragraphs come from one docstring?"""
        pieces = rng.choice(self.by_text)
        if len(pieces) < 2:
            return None
        one, two = rng.sample(pieces, 2)
        same = rng.random() < 0.5
        if not same:
            two = rng.choice(rng.choice(self.by_text))
        text = f"first: {one[:120]}\nsecond: {two[:120]}"
        return self.choice(
            rng,
            "Do the first and the second text belong together?",
            ["together", "apart"],
            text,
            "together" if same else "apart",
        )

    def present(self, rng: random.Random) -> tuple[str, str] | None:
        """Does this word occur in the text?"""
        if (picked := self._keyword(rng)) is None:
            return None
        text, word = picked
        there = rng.random() < 0.5
        asked = word if there else self.others(rng, text, 1)[0]
        return self.choice(
            rng,
            f'Does the word "{asked}" occur in the following text?',
            ["present", "absent"],
            text,
            "present" if there else "absent",
        )

    def after(self, rng: random.Random) -> tuple[str, str] | None:
        """Which word follows this one?"""
        text = self.passage(rng)
        words = text.split()
        at = rng.randrange(max(1, len(words) - 1))
        if len(words) < 6 or words.count(words[at]) != 1 or len(words[at]) < 3 or len(words[at + 1]) > 30:
            return None
        return f'Which word comes after "{words[at]}" in the following text?\n{text}\nAnswer:', words[at + 1]

    def quoted(self, rng: random.Random) -> tuple[str, str] | None:
        """What stands between two marks?"""
        if (picked := self._keyword(rng)) is None:
            return None
        text, word = picked
        mark = rng.choice(["'", '"', "`", "*", "|", "<"])
        close = ">" if mark == "<" else mark
        if mark in text or close in text:
            return None
        end = re.search(rf"\b{re.escape(word)}\b(?:[ _.]\w+){{0,2}}", text)
        marked = end.group(0) if end and rng.random() < 0.4 else word
        text = text.replace(marked, f"{mark}{marked}{close}", 1)
        return f"What stands between {mark} and {close} in the following text?\n{text}\nAnswer:", marked

    def listed(self, rng: random.Random) -> tuple[str, str] | None:
        """What is the n-th word of a list?"""
        words = list(dict.fromkeys(self.word(rng) for _ in range(rng.randint(3, 8))))
        places = ["first", "second", "third", "fourth", "last"]
        place = rng.choice([*places[: min(len(words), 4)], "last"])
        joint = rng.choice([" ", " | ", "; ", " and ", "\n"])
        return f"What is the {place} word of the following list?\n{joint.join(words)}\nAnswer:", words[
            {"last": -1}.get(place, places.index(place))
        ]

    def repeat(self, rng: random.Random) -> tuple[str, str] | None:
        """Repeat the options."""
        words = [self.word(rng) for _ in range(rng.randint(2, 6))]
        return f"Repeat the options.\nOption: {', '.join(words)} \n{self.passage(rng, 100)}\nAnswer:", ", ".join(words)

    def ends(self, rng: random.Random) -> tuple[str, str] | None:
        """What is the first or the last word?"""
        words = self.passage(rng, 200).split()
        if len(words) < 5:
            return None
        place, at = rng.choice([("first", 0), ("last", -1)])
        if not 0 < len(words[at]) < 30:
            return None
        return f"What is the {place} word of the following text?\n{' '.join(words)}\nAnswer:", words[at]

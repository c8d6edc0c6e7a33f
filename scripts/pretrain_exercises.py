"""Questions made from texts alone, in the benchmark's prompt form, for `pretrain_tiny.py`."""

from __future__ import annotations

import collections
import random
import re
from collections.abc import Iterable
from typing import ClassVar

import numpy as np
from pretrain_data import paragraphs, words

from gorp.tasks import builtin

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
BELONGS = "Where does the following text belong?"
ENTRY = re.compile(r"^(\w+ ?: ?\S.*(?:\n[ ]+.*)+)", re.MULTILINE)
ENOUGH = 40  # texts that a label must have
KINDS_OF_ENTRY = {
    "Is the following parameter a number?": re.compile(r"\b(?:int|float|number|scalar|integer)\b", re.IGNORECASE),
    "Is the following parameter a text?": re.compile(r"\b(?:str|string|text|name)\b", re.IGNORECASE),
    "May the following parameter be None?": re.compile(r"\bNone\b"),
    "Is the following parameter a switch?": re.compile(r"\b(?:bool|boolean|True|False)\b"),
    "Does the following parameter hold many values?": re.compile(r"\b(?:list|array|tuple|dict|sequence|iterable)\b"),
}


def origin(module: str) -> str:
    """The package a module belongs to; of the largest packages, the part. "" where the stream asks for it."""
    first, *rest = module.split(".")
    name = rest[0] if rest and first in ("torch", "transformers", "sympy", "datasets", "accelerate", "peft") else first
    return "" if name.lower() in LABELS or first in builtin.LIBRARIES else name.strip("_")


def by_label(pairs: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """Texts of at least 60 characters under each label that has enough of them."""
    found: dict[str, list[str]] = collections.defaultdict(list)
    for label, text in pairs:
        if label and len(text) >= 60:
            found[label].append(text)
    return {label: texts for label, texts in found.items() if len(texts) >= ENOUGH}


class Exercises:
    """Questions that a text, or where it stands, answers.

    `make(rng)` gives (kind, prompt, answer). Prompts have the benchmark's form; words of the stream's labels are never
    options put into a question. The last four kinds are of the stream's kinds, with other labels: other packages and
    parts of packages, other sections, other facts of a parameter, and never the first parameter.
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
        "origin": 26,
        "part": 16,
        "entry": 14,
        "parameter": 18,
    }

    def __init__(self, texts: list[list[str]], parts: list[list[str]]) -> None:
        self.named = [
            (signature.partition("(")[0], text)
            for _, signature, text in texts
            if len(signature.partition("(")[0]) > 3 and len(text) > 60 and not signature.startswith("__")
        ]
        self.called = [
            (signature, text)
            for _, signature, text in texts
            if signature.count(",") and len(signature) <= 120 and not signature.startswith("__")
        ]
        self.by_text = [pieces for _, _, text in texts if (pieces := [p for p in paragraphs(text) if len(p) > 30])]
        self.by_origin = by_label((origin(module), f"{s}\n{text}") for module, s, text in texts)
        self.by_part = by_label((title.lower(), body) for title, body in parts)
        self.entries = [entry for _, _, text in texts for entry in ENTRY.findall(text)]
        counts = collections.Counter(
            w for _, _, text in texts for w in set(WORD.findall(text)) if w.lower() not in STOP | LABELS
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

    def _labelled(self, rng: random.Random, texts: dict[str, list[str]]) -> tuple[str, str] | None:
        label = rng.choice(list(texts))
        text = rng.choice(texts[label])
        lines = [line.strip() for line in text.split("\n") if label.lower() not in line.lower()]
        text = "\n".join(line for line in lines if "import " not in line)[: rng.randint(100, 260)].rpartition(" ")[0]
        options = [label, *rng.sample([other for other in texts if other != label], rng.randint(1, 4))]
        return self.choice(rng, BELONGS, options, text, label) if len(text) >= 40 else None

    def origin(self, rng: random.Random) -> tuple[str, str] | None:
        """Which package is the text from?"""
        return self._labelled(rng, self.by_origin)

    def part(self, rng: random.Random) -> tuple[str, str] | None:
        """Which section is the text from?"""
        return self._labelled(rng, self.by_part)

    def entry(self, rng: random.Random) -> tuple[str, str] | None:
        """Is the parameter described of this kind?"""
        question, pattern = rng.choice(list(KINDS_OF_ENTRY.items()))
        wanted = rng.random() < 0.5
        for entry in (rng.choice(self.entries)[:200] for _ in range(20)):
            if bool(pattern.search(entry)) == wanted:
                return self.choice(rng, question, ["true", "false"], entry, "true" if wanted else "false")
        return None

    def parameter(self, rng: random.Random) -> tuple[str, str] | None:
        """What is the name, or the second or last parameter, of the function?"""
        signature, text = rng.choice(self.called)
        name, _, inside = signature.rstrip(")").partition("(")
        names = inside.split(", ")
        place = rng.choice(["name", "second parameter", "last parameter"])
        answer = {"name": name, "second parameter": names[1], "last parameter": names[-1]}[place]
        text = f"{signature}\n{text}"[:200].rpartition(" ")[0]
        return f"What is the {place} of the following function?\n{text}\nAnswer:", answer

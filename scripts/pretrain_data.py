"""Texts, tokenizer and span corruption for `pretrain_tiny.py`."""

from __future__ import annotations

import collections
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from gorp.tasks import builtin, docstrings
from gorp.tasks.builtin import PACKAGES, held_out


def words(text: str) -> tuple[str, ...]:
    """The words of `text`."""
    return tuple(text.split())


VOCABULARY = 4096
SENTINELS = 32
PAD, EOS, UNK, BOS = 0, 1, 2, 3
OTHER_PACKAGES = (
    "accelerate",
    "datasets",
    "jinja2",
    "peft",
    "pydantic",
    "pytest",
    "rich",
    "sympy",
    "tokenizers",
    "torch",
    "transformers",
    "typer",
    "asyncio",
    "collections",
    "concurrent",
    "ctypes",
    "email",
    "html",
    "http",
    "importlib",
    "json",
    "logging",
    "multiprocessing",
    "unittest",
    "urllib",
    "xml",
)
STANDARD_MODULES = words("""
    abc argparse ast base64 bisect calendar cmd codecs configparser contextlib copy csv dataclasses datetime decimal
    difflib dis doctest enum fractions ftplib functools gettext glob gzip heapq hmac imaplib inspect ipaddress
    locale mailbox mimetypes numbers operator optparse os pathlib pdb pickle pkgutil platform plistlib poplib pprint
    profile pydoc queue random re sched secrets selectors shelve shlex shutil smtplib socket socketserver ssl
    statistics string stringprep subprocess tarfile tempfile textwrap threading timeit tokenize trace traceback
    turtle types typing uuid warnings weakref webbrowser zipfile zipapp
""")


# ---------------------------------------------------------------------------------------------------------------- text
def gather(path: Path) -> list[list[str]]:
    """[module, signature, text] of every docstring that may be trained on; kept in `path`, read again from there.

    Left out: docstrings held out by the stream, every paragraph that occurs in one of them, and the headings of
    sections (the stream asks for them).
    """
    if path.exists():
        return json.loads(path.read_text())
    stream = docstrings.load(PACKAGES)
    secret = {essence(p) for d in stream if held_out(d) for p in paragraphs(d.text)}
    everything = [d for d in stream if not held_out(d)]
    for package in OTHER_PACKAGES:
        everything += docstrings.extract(package)
    everything += standard_library()
    everything = [d for d in docstrings.distinct(everything) if not (d.module.startswith("sympy.") and held_out(d))]
    texts = []
    for d in everything:
        text = docstrings.without_headings(d.text)
        text = "\n\n".join(p for p in paragraphs(text) if essence(p) not in secret)
        if len(text) >= 40:
            texts.append([d.module, d.signature if d.parameters else d.name.rpartition(".")[2], text])
    path.write_text(json.dumps(texts))
    return texts


def underlined_parts() -> list[list[str]]:
    """[title, body] of the sections of docstrings that the stream may train on, save those it asks for."""
    free = (d for d in docstrings.load(PACKAGES) if not held_out(d))
    asked = {*builtin.SECTIONS, ""}
    return [[title, body] for d in free for title, body in docstrings.sections(d.text).items() if title not in asked]


def standard_library() -> Iterator[docstrings.Docstring]:
    """Docstrings of single-file modules of the standard library."""
    folder = Path(json.__file__).parent.parent
    for name in STANDARD_MODULES:
        if (folder / f"{name}.py").exists():
            yield from docstrings.of_file(folder / f"{name}.py", name)


def paragraphs(text: str) -> list[str]:
    """Parts of a text between empty lines."""
    return [p.strip("\n") for p in re.split(r"\n\s*\n", text) if p.strip()]


def essence(text: str) -> str:
    """What two copies of a text have in common: its words in lower case."""
    return re.sub(r"\W+", " ", text).strip().lower()


# ----------------------------------------------------------------------------------------------------------- tokenizer
def build_tokenizer(texts: list[str], folders: dict[str, Path]) -> None:
    """One BPE vocabulary with byte fallback for both models: the causal one begins with <s>, T5 ends with </s>."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors, trainers
    from tokenizers.models import BPE
    from transformers import PreTrainedTokenizerFast

    def fresh(model: BPE) -> Tokenizer:
        tok = Tokenizer(model)
        tok.normalizer = normalizers.Sequence(
            [
                normalizers.NFC(),
                normalizers.Replace(Regex(r"[ \t\u00a0]+"), " "),
                normalizers.Replace(Regex(r" ?\r?\n\s*"), "\n "),
            ]
        )
        tok.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always", split=False),
                pre_tokenizers.Split(
                    Regex(r"▁?\p{Lu}?\p{Ll}+|▁?\p{Lu}+|▁?\p{N}{1,3}|▁?[^\s\p{L}\p{N}▁]{1,4}|\n|▁|."),
                    behavior="isolated",
                ),
            ]
        )
        return tok

    common = collections.Counter("".join(texts))
    kept = {c for c, n in common.items() if n >= 200}
    cleaned = ("".join(c if c in kept else " " for c in text) for text in texts)
    special = ["<pad>", "</s>", "<unk>", "<s>"]
    sentinels = [f"<extra_id_{i}>" for i in range(SENTINELS - 1, -1, -1)]
    size = VOCABULARY - len(special) - 256 - SENTINELS
    tok = fresh(BPE(unk_token="<unk>"))
    tok.train_from_iterator(
        cleaned, trainers.BpeTrainer(vocab_size=size, min_frequency=10, max_token_length=16, show_progress=False)
    )
    model = json.loads(tok.to_str())["model"]
    pieces = sorted(model["vocab"], key=model["vocab"].get)
    vocabulary = [*special, *(f"<0x{b:02X}>" for b in range(256)), *pieces, *sentinels]
    assert len(set(vocabulary)) == VOCABULARY, len(vocabulary)
    for kind, folder in folders.items():
        tok = fresh(
            BPE(
                {p: i for i, p in enumerate(vocabulary)},
                [tuple(m) for m in model["merges"]],
                unk_token="<unk>",
                byte_fallback=True,
            )
        )
        tok.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in special])
        tok.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in reversed(sentinels)])
        tok.decoder = decoders.Sequence(
            [decoders.ByteFallback(), decoders.Metaspace(replacement="▁", prepend_scheme="always")]
        )
        single, marks = ("<s> $A", [("<s>", BOS)]) if kind == "llama" else ("$A </s>", [("</s>", EOS)])
        tok.post_processor = processors.TemplateProcessing(single=single, special_tokens=marks)
        fast = PreTrainedTokenizerFast(
            tokenizer_object=tok,
            pad_token="<pad>",
            eos_token="</s>",
            unk_token="<unk>",
            model_max_length=512,
            bos_token="<s>" if kind == "llama" else None,
            clean_up_tokenization_spaces=False,
            padding_side="left" if kind == "llama" else "right",
            **({} if kind == "llama" else {"extra_special_tokens": list(reversed(sentinels))}),
        )
        folder.mkdir(parents=True, exist_ok=True)
        fast.save_pretrained(folder)


# ------------------------------------------------------------------------------------------------------------- batches
class Texts:
    """Tokens of all docstrings, each <s> signature, text </s>, read in chunks; every epoch in another order."""

    def __init__(
        self, path: Path, texts: list[list[str]], tokenizer: Callable[..., dict[str, list[list[int]]]]
    ) -> None:
        if not path.exists():
            ids = tokenizer([f"{s}\n{t}" for _, s, t in texts], add_special_tokens=False)["input_ids"]
            np.savez(
                path,
                tokens=np.array([t for x in ids for t in (BOS, *x, EOS)], np.uint16),
                lengths=np.array([len(x) + 2 for x in ids]),
            )
        stored = np.load(path)
        self.docs = np.split(stored["tokens"], np.cumsum(stored["lengths"])[:-1])
        self.total = int(stored["lengths"].sum())
        self._epochs: dict[tuple[int, int], np.ndarray] = {}

    def chunk(self, index: int, size: int, seed: int) -> np.ndarray:
        """Chunk number `index` of the endless sequence of epochs, `size` tokens."""
        epoch, at = divmod(index, self.total // size - 1)
        if (epoch, size) not in self._epochs:
            rng = np.random.default_rng([seed, epoch, size])
            stream = np.concatenate([self.docs[i] for i in rng.permutation(len(self.docs))])
            stream = stream[int(rng.integers(size)) :]
            n = self.total // size - 1
            self._epochs = {k: v for k, v in self._epochs.items() if k[1] != size}
            self._epochs[epoch, size] = stream[: n * size].reshape(n, size)[rng.permutation(n)]
        return self._epochs[epoch, size][at].astype(np.int64)


def corrupt(tokens: np.ndarray, rng: np.random.Generator, rate: float) -> tuple[list[int], list[int]]:
    """T5's span corruption: `rate` of the tokens in spans of mean length 3 become sentinels; (input, target)."""
    n = len(tokens)
    noise = round(n * rate)
    spans = round(noise / 3)

    def lengths(total: int) -> np.ndarray:
        cuts = np.sort(rng.choice(np.arange(1, total), spans - 1, replace=False))
        return np.diff(np.concatenate([[0], cuts, [total]]))

    source: list[int] = []
    target: list[int] = []
    at = 0
    for i, (kept, lost) in enumerate(zip(lengths(n - noise), lengths(noise), strict=True)):
        source += [*tokens[at : at + kept], VOCABULARY - 1 - i]
        target += [VOCABULARY - 1 - i, *tokens[at + kept : at + kept + lost]]
        at += kept + lost
    return [*source, EOS], [*target, EOS]

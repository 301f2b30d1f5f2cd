"""Made-up reports: a trace with scores of every kind, its rollouts, hostile text, and a reader of the page."""

from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from anchors.report import write_report
from anchors.rollouts import Rollouts
from anchors.scores import Scores
from anchors.similarity import lexical
from anchors.trace import Trace

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no chromium; run: apt-get install chromium")

CATEGORIES = ("problem_setup", "plan_generation", "active_computation", "uncertainty_management", "self_checking")
HOSTILE = (
    "</script><script>document.documentElement.dataset.hacked = 1</script>",
    '"><img src=x onerror="document.documentElement.dataset.hacked=2">',
    "{{ 7 * 7 }} {% raw %} <!-- ]]> &amp; &lt;b&gt;",
    "\u202eright to left \u2066 שלום עולם",
    "lone \ud800 surrogate and \x00 and \u2028 separators",
    "${alert(1)}` ' \\u003c \\",
    "</style><style>*{display:none}</style> javascript:document.documentElement.dataset.hacked=3",
)


def a_trace(sentences: int = 12, *, texts: tuple[str, ...] = (), answer: str = "19") -> Trace:
    texts = texts or tuple(f"This is sentence number {i} of the reasoning, {i * i} in words." for i in range(sentences))
    ending = f"\n</think>\n\\boxed{{{answer}}}"
    trace = Trace.from_text(
        "How many?\n", "<think>\n" + " ".join(texts) + ending, sentences=texts, answer=answer, target="19"
    )
    return trace.with_categories([CATEGORIES[i % 5] for i in range(len(trace))])


def with_p(trace: Trace, *, method: str = "resampling") -> Scores:
    values = np.linspace(-0.2, 0.2, len(trace))
    values[3], values[-1] = 0.625, np.nan
    p = np.where(np.isnan(values), np.nan, 0.6)
    p[3] = 1e-7
    details = {"model": "lab/reasoner", "seed": 7, "sampling": {"temperature": 0.6}, "warnings": ["few rollouts"]}
    return Scores.of(
        trace, method, values, low=values - 0.1, high=values + 0.1, n=100, p=p, unit="probability", details=details
    )


def spread_p(trace: Trace, *, method: str = "counterfactual", seed: int = 0) -> Scores:
    """A tenth of the sentences matter; p-values of every size."""
    rng = np.random.default_rng(seed)
    values = rng.normal(0, 0.05, len(trace)) + 0.6 * (rng.random(len(trace)) < 0.1)
    p = np.clip(np.exp(-80 * values**2) * rng.random(len(trace)), 1e-60, 1)
    return Scores.of(
        trace, method, values, low=values - 0.08, high=values + 0.08, n=100, p=p, floor=np.full(len(trace), 0.01),
        unit="probability",
    )  # fmt: skip


def suppression_scores(trace: Trace, *, seed: int = 0) -> Scores:
    square = np.random.default_rng(seed).normal(size=(len(trace), len(trace)))
    square[np.triu_indices(len(trace))] = np.nan
    extras = {"matrix_low": square - 0.5, "matrix_high": square + 0.5} | token_effects(trace, seed=seed)
    details = {"matrix unit": "nats of KL a token"}
    values = np.arange(len(trace)) * 0.01
    return Scores.of(trace, "suppression", values, matrix=square, extras=extras, unit="nats", details=details)


def token_effects(trace: Trace, *, seed: int = 0) -> dict[str, np.ndarray]:
    """Made-up effects on every later token; tokens are words with the white space before them."""
    offsets = np.array([m.span() for m in re.finditer(r"\s*\S+", trace.text[: trace.boundaries[-1]])])
    ends = np.searchsorted(offsets[:, 0], trace.boundaries[1:])
    effects = np.random.default_rng(seed).exponential(size=(len(trace), len(offsets)))
    effects[np.arange(len(offsets)) < ends[:, None]] = np.nan
    sources = np.arange(len(trace))
    return {"token_effects": effects.astype(np.float16), "token_sources": sources, "token_offsets": offsets}


def effect_scores(trace: Trace, *, seed: int = 1) -> Scores:
    """Effects with p-values a cell; a chain 0 -> 2 -> 5 and one edge 1 -> 4 are beyond doubt."""
    size = len(trace)
    rng = np.random.default_rng(seed)
    square, p = rng.normal(0, 0.02, (size, size)), rng.uniform(0.2, 1, (size, size))
    for source, target, value in ((0, 2, 0.5), (2, 5, -0.4), (1, 4, 0.3)):
        square[target, source], p[target, source] = value, 1e-6
    above = np.triu_indices(size)
    square[above] = p[above] = np.nan
    extras = {"matrix_low": square - 0.1, "matrix_high": square + 0.1, "matrix_p": p}
    return Scores.of(
        trace, "effects", np.nanmean(np.nan_to_num(square), 0), matrix=square, extras=extras, unit="probability"
    )


def head_scores(trace: Trace, *, layers: int = 3, heads: int = 4, seed: int = 2) -> Scores:
    """Random attention with one head that sentence 4 receives."""
    from anchors.attention import fisher_kurtosis, top_heads, vertical_scores

    size = len(trace)
    attention = np.tril(np.random.default_rng(seed).random((layers, heads, size, size)), -1)
    attention[1, 2, 5:, 4] = 9.0
    vertical = vertical_scores(attention, proximity=1)
    kurtosis = fisher_kurtosis(vertical)
    chosen = top_heads(kurtosis, top=3)
    pooled = np.stack([attention[pair] for pair in chosen]).astype(np.float32)
    mean = np.where(np.tri(size, k=-1, dtype=bool), pooled.mean(0), np.nan)
    extras = {"kurtosis": kurtosis, "heads": np.array(chosen), "vertical": vertical, "pooled": pooled}
    return Scores.of(trace, "attention", vertical_scores(mean, proximity=1), matrix=mean, extras=extras, unit="weight")


def every_score(trace: Trace) -> list[Scores]:
    return [spread_p(trace), with_p(trace), effect_scores(trace), suppression_scores(trace), head_scores(trace)]


def some_rollouts(
    trace: Trace, *, n: int = 10, text: str = " An alternative {i}. Then more. \\boxed{{{a}}}"
) -> Rollouts:
    def row(k: int) -> list[str]:
        return [text.format(i=i, a="19" if i < 2 + 6 * (k > 3) else "20") for i in range(n - 1)] + ["gave up"]

    return Rollouts.from_texts(trace, [row(k) for k in range(len(trace) + 1)])


def written(folder: Path, trace: Trace, scores: list | None = None, **options) -> str:
    scores = scores or [with_p(trace), suppression_scores(trace)]
    path = write_report(trace, scores, folder / "report.html", similarity=lexical(), **options)
    return path.read_text(encoding="utf-8")


def hostile_report(folder: Path) -> str:
    trace = a_trace(texts=HOSTILE, answer=HOSTILE[0])
    rollouts = Rollouts.from_texts(
        trace, [[f"{text} \\boxed{{{text}}}" for text in HOSTILE if "\ud800" not in text]] * (len(HOSTILE) + 1)
    )
    scores = with_p(trace, method=HOSTILE[1])
    details = {HOSTILE[0]: HOSTILE[1], "warnings": HOSTILE, "matrix unit": HOSTILE[1]}
    scores = Scores.of(trace, HOSTILE[1], scores.values, p=scores.p, unit=HOSTILE[0], details=details)
    square = suppression_scores(trace)
    square = Scores.of(trace, HOSTILE[6], square.values, matrix=square.matrix, unit=HOSTILE[0], details=details)
    trace = trace.with_categories(HOSTILE)
    return written(folder, trace, [scores, square, head_scores(trace)], rollouts=rollouts, title=HOSTILE[0])


def data_of(page: str) -> dict:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    return json.loads(found[1])


class Page(HTMLParser):
    """What a browser would see: elements with their attributes, and the text of every sentence."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.sentences: list[str] = []
        self.inside = False
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if ("class", "w") in attrs:
            self.inside = True
            self.sentences.append("")

    def handle_endtag(self, tag):
        self.inside = False

    def handle_data(self, data):
        if self.inside:
            self.sentences[-1] += data

"""Every figure returns its Axes, draws on the one it is given, renders to PDF, and shows the numbers it was given."""

from __future__ import annotations

import io
import subprocess
import sys

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from anchors import plotting
from anchors.rollouts import Rollouts
from anchors.scores import Scores
from anchors.trace import Trace

LABELS = ("problem_setup", "active_computation", "self_checking", None, "my $own_category")


def a_trace(sentences: int = 12) -> Trace:
    texts = [f"This is sentence number {i} of it." for i in range(sentences)]
    trace = Trace.from_text("Count.\n", "<think>\n" + " ".join(texts) + "\n</think>\n\\boxed{19}", sentences=texts)
    return trace.with_categories([LABELS[i % len(LABELS)] for i in range(sentences)])


def some_scores(trace: Trace, *, method: str = "resampling", seed: int = 0, **rest: object) -> Scores:
    values = np.random.default_rng(seed).normal(size=len(trace))
    values[-1] = np.nan
    p = np.where(np.isnan(values), np.nan, 0.5)
    p[2] = 1e-6
    return Scores.of(
        trace, method, values, low=values - 0.3, high=values + 0.3, n=50, p=p, floor=np.full(len(trace), 0.1), **rest
    )


def suppression(trace: Trace) -> Scores:
    square = np.tril(np.random.default_rng(3).normal(size=(len(trace), len(trace))), -1)
    square[np.triu_indices(len(trace))] = np.nan
    return some_scores(trace, method="suppression", seed=3, matrix=square, unit="nats")


def heads(trace: Trace) -> Scores:
    extras = {"kurtosis": np.arange(12.0).reshape(3, 4), "heads": np.array([[2, 3], [1, 0]])}
    return some_scores(trace, method="receiver_heads", seed=4, extras=extras)


def the_rollouts(trace: Trace) -> Rollouts:
    answers = [["19", "20", "21", "22", "23", "24", "25"][: 1 + k % 7] for k in range(len(trace) + 1)]
    return Rollouts.from_texts(trace, [[f"So \\boxed{{{a}}}" for a in row] + ["no idea"] for row in answers])


def figures(trace: Trace) -> dict[str, tuple]:
    one, many = some_scores(trace), [some_scores(trace), suppression(trace), heads(trace)]
    return {
        "importance_profile": (one,),
        "category_means": (many,),
        "matrix": (suppression(trace),),
        "kurtosis": (heads(trace),),
        "agreement": (many,),
        "answer_distribution": (the_rollouts(trace),),
        "confidence_trace": (one,),
    }


@pytest.mark.parametrize("name", figures(a_trace()))
def test_a_figure_returns_an_axes_one_column_wide_and_renders_to_pdf(name):
    ax = getattr(plotting, name)(*figures(a_trace())[name])
    assert ax.figure.get_figwidth() == pytest.approx(3.3)
    file = io.BytesIO()
    ax.figure.savefig(file, format="pdf")
    assert file.getvalue().startswith(b"%PDF")


@pytest.mark.parametrize("name", figures(a_trace()))
def test_a_figure_draws_on_the_axes_it_is_given(name):
    figure = Figure()
    FigureCanvasAgg(figure)
    given = figure.add_subplot()
    assert getattr(plotting, name)(*figures(a_trace())[name], ax=given) is given
    assert figure.get_figheight() == 4.8


@pytest.mark.parametrize("name", figures(a_trace()))
def test_text_stays_inside_a_figure(name):
    ax = getattr(plotting, name)(*figures(a_trace(40))[name])
    ax.figure.canvas.draw()
    box, page = ax.get_tightbbox(), ax.figure.bbox
    assert box.x0 >= page.x0 - 1 and box.x1 <= page.x1 + 1 and box.y0 >= page.y0 - 1 and box.y1 <= page.y1 + 1


def test_a_legend_stands_clear_of_the_x_label():
    ax = plotting.importance_profile(some_scores(a_trace()))
    ax.figure.canvas.draw()
    legend = ax.get_legend()
    assert legend is not None and legend.get_window_extent().y1 <= ax.xaxis.label.get_window_extent().y0 + 1


def test_importance_profile_marks_the_tested_anchors():
    scores = some_scores(a_trace())
    label, places = anchors_drawn(plotting.importance_profile(scores))
    assert label.startswith("anchor") and places == scores.anchors() == [2]


def test_importance_profile_says_that_a_ranking_was_not_tested():
    scores = Scores.of(a_trace(), "receiver_heads", np.arange(12.0))
    label, places = anchors_drawn(plotting.importance_profile(scores))
    assert "not tested" in label and places == [11, 10, 9]


def anchors_drawn(ax) -> tuple[str, list[int]]:
    drawn = [c for c in ax.collections if str(c.get_label()).startswith(("anchor", "top 3"))]
    return str(drawn[0].get_label()), [int(x) for x in drawn[0].get_offsets()[:, 0]]


def test_importance_profile_survives_unmeasured_and_infinite_numbers():
    trace = a_trace()
    nothing = Scores.of(trace, "resampling", np.full(12, np.nan))
    endless = Scores.of(trace, "resampling", np.ones(12), low=np.full(12, -np.inf), high=np.full(12, np.inf))
    for scores in (nothing, endless):
        plotting.importance_profile(scores).figure.canvas.draw()
        plotting.confidence_trace(scores).figure.canvas.draw()


def test_category_means_average_traces_not_sentences():
    few, many = (Scores.of(t, "m", np.full(len(t), v)) for t, v in ((a_trace(5), 1.0), (a_trace(50), 3.0)))
    means = plotting._trace_means([few, many])
    assert means["self_checking"] == [1.0, 3.0] and next(iter(means)) == "problem_setup" and None not in means


def test_answer_distribution_adds_up_with_the_own_answer_first_and_no_answer_last():
    boundaries, shares, labels = plotting._shares(the_rollouts(a_trace()))
    assert boundaries == list(range(13)) and np.allclose(shares.sum(axis=0), 1)
    assert labels[0] == "19" and labels[-2:] == ["other", "no answer"] and len(labels) == 7


def test_agreement_writes_the_correlations():
    trace = a_trace()
    rising = Scores.of(trace, "rising", np.arange(12.0))
    falling = Scores.of(trace, "falling", -np.arange(12.0))
    assert [text.get_text() for text in plotting.agreement([rising, falling]).texts] == ["−1.00"]


@pytest.mark.parametrize(
    ("draw", "says"),
    [
        (lambda t: plotting.matrix(some_scores(t)), "no matrix"),
        (lambda t: plotting.kurtosis(some_scores(t)), "receiver_heads"),
        (lambda t: plotting.category_means([some_scores(t.with_categories([None] * len(t)))]), "with_categories"),
        (lambda t: plotting.agreement([]), "at least one"),
        (lambda t: plotting.agreement([some_scores(t)]), "two"),
        (lambda t: plotting.answer_distribution(Rollouts.from_texts(t, [])), "resample"),
    ],
)
def test_what_cannot_be_drawn_is_refused_with_a_remedy(draw, says):
    with pytest.raises(ValueError, match=says):
        draw(a_trace())


def test_importing_the_module_imports_no_matplotlib():
    code = "import sys, anchors.plotting; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

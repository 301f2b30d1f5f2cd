"""Every figure returns its Axes, draws on the one it is given, renders to PDF, and shows the numbers it was given."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from anchors import plotting
from anchors.confidence import Definition, TraceConfidence, trace_confidence
from anchors.plotting import importance
from anchors.rollouts import Rollouts
from anchors.scores import Scores
from anchors.trace import Trace
from tests.transfers import a_gate, a_matrix, a_shift, a_transfer

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


def by_token(length: int = 60, *, window: int = 8) -> TraceConfidence:
    tokens = np.random.default_rng(5).normal(12, 3, length)
    tokens[0] = np.nan
    spans = [(0, length // 3), (length // 3, length // 2), (length // 2, length - 4)]
    return trace_confidence(tokens, definition=Definition(window=window, tail=window), spans=spans)


def truth_file(folder: Path) -> Path:
    """What `benchmarks/truth.py` writes, with two methods at two costs, one at one, a variant, a baseline."""
    rows = [
        ("resampling, n = 10", 6000.0, 0.7), ("resampling, n = 100", 60000.0, 0.9), ("resampling, n = 10, reuse", 6000.0, 0.8),
        ("resampling, n = 100, reuse", 60000.0, 0.95), ("receiver heads", 100.0, 0.6), ("made up by a user", 300.0, 0.5),
        ("counterfactual, lexical filter, n = 100", 60000.0, 0.4), ("baseline: position, early first", 0.0, 0.79),
        ("baseline: length, long first", 0.0, 0.78), ("confidence, low first", 100.0, None),
        ("ceiling: exact resampling, ties broken", 0.0, 0.96),
    ]  # fmt: skip
    cells = [None if value is None else (value, value - 0.05, value + 0.04, 200) for *_, value in rows]
    methods = [{"method": m, "forward": t, "auroc": c} for (m, t, _), c in zip(rows, cells, strict=True)]
    path = folder / "expression.json"
    path.write_text(json.dumps({"world": "expression", "methods": methods}))
    return path


def some_accuracies() -> list[plotting.Accuracy]:
    with TemporaryDirectory() as folder:
        return plotting.read_accuracy(truth_file(Path(folder)))


@cache
def figures(*sentences: int) -> dict[str, tuple]:
    trace = a_trace(*sentences)
    one, many = some_scores(trace), [some_scores(trace), suppression(trace), heads(trace)]
    return {
        "importance_profile": (one,),
        "category_means": (many,),
        "matrix": (suppression(trace),),
        "kurtosis": (heads(trace),),
        "agreement": (many,),
        "answer_distribution": (the_rollouts(trace),),
        "confidence_trace": (by_token(),),
        "accuracy_curves": (some_accuracies(),),
        "transfer_heat_map": (a_matrix(),),
        "compression_curves": (a_transfer(),),
        "compression_areas": (a_transfer(),),
        "retention_bars": (a_transfer(),),
        "controls_plot": (a_transfer(),),
        "shift_plot": ([a_shift("a task of several words"), a_shift("size", slope=0.1, levels=2)],),
    }


@pytest.mark.parametrize("name", figures())
def test_a_figure_returns_an_axes_one_column_wide_and_renders_to_pdf(name):
    ax = getattr(plotting, name)(*figures()[name])
    assert ax.figure.get_figwidth() == pytest.approx(3.3)
    file = io.BytesIO()
    ax.figure.savefig(file, format="pdf")
    assert file.getvalue().startswith(b"%PDF")


@pytest.mark.parametrize("name", figures())
def test_a_figure_draws_on_the_axes_it_is_given(name):
    figure = Figure()
    FigureCanvasAgg(figure)
    given = figure.add_subplot()
    assert getattr(plotting, name)(*figures()[name], ax=given) is given
    assert figure.get_figheight() == 4.8


@pytest.mark.parametrize("name", figures())
def test_text_stays_inside_a_figure(name):
    ax = getattr(plotting, name)(*figures(40)[name])
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


def test_accuracy_curves_join_a_method_over_its_costs_and_draw_what_is_free_across():
    found = some_accuracies()
    ax = plotting.accuracy_curves(found)
    lines = {str(line.get_label()): line for line in ax.lines}
    assert list(lines["resampling"].get_xdata()) == [6000, 60000] and list(lines["resampling"].get_ydata()) == [
        0.7,
        0.9,
    ]
    assert list(lines["resampling, reuse"].get_ydata()) == [0.8, 0.95], "reuse is a method of its own"
    assert lines["resampling"].get_markerfacecolor() != lines["resampling, reuse"].get_markerfacecolor()
    whiskers = [segment for c in ax.collections for segment in c.get_segments()]
    assert any(np.allclose(segment, [[100, 0.55], [100, 0.64]]) for segment in whiskers), "its 95 % interval"
    assert not any("filter" in name for name in lines) and "confidence, low first" not in lines
    assert "counterfactual, lexical filter" in [
        line.get_label() for line in plotting.accuracy_curves(found, every=True).lines
    ]
    names = {str(text.get_text()): text for text in ax.texts}
    free = [float(line.get_ydata()[0]) for line in ax.lines if line.get_linestyle() == ":"]
    assert set(names) == {"position", "length"} and sorted(free) == [0.78, 0.79]
    low, high = ax.get_ylim()
    assert names["position"].xy[1] - names["length"].xy[1] >= 0.05 * (high - low), "names do not touch"


def test_the_confidence_figure_shows_tokens_groups_and_sentences_where_they_are():
    found = by_token()
    ax = plotting.confidence_trace(found)
    lines = {str(line.get_label()): line for line in ax.lines}
    np.testing.assert_array_equal(lines["token"].get_ydata(), found.tokens)
    np.testing.assert_array_equal(lines["group of 8"].get_xdata(), np.arange(7, 59))
    marks = {str(c.get_label()): c for c in ax.collections}
    (place, value), *_ = marks["lowest"].get_offsets()
    assert value == found.lowest and found.tokens[int(place) - 7 : int(place) + 1].mean() == pytest.approx(found.lowest)
    assert marks["bottom 10%"].get_offsets()[:, 1].mean() == pytest.approx(found.bottom)
    steps = np.array(marks["sentence mean"].get_segments())
    assert found.spans is not None and found.spans[0] == (0, 19), "the unmeasured first token is not among them"
    for (a, b), step, mean in zip(found.spans, steps, found.sentences, strict=True):
        assert found.tokens[a:b].mean() == pytest.approx(mean) == pytest.approx(step[0, 1])
        assert step[:, 0].tolist() == [a - 0.5, b - 0.5]


def test_a_trace_shorter_than_its_window_has_no_groups_to_draw():
    ax = plotting.confidence_trace(by_token(window=400))
    assert not [line for line in ax.lines if "group" in str(line.get_label())]


def test_category_means_average_traces_not_sentences():
    few, many = (Scores.of(t, "m", np.full(len(t), v)) for t, v in ((a_trace(5), 1.0), (a_trace(50), 3.0)))
    means = importance._trace_means([few, many])
    assert means["self_checking"] == [1.0, 3.0] and next(iter(means)) == "problem_setup" and None not in means


def test_answer_distribution_adds_up_with_the_own_answer_first_and_no_answer_last():
    boundaries, shares, labels = importance._shares(the_rollouts(a_trace()))
    assert boundaries == list(range(13)) and np.allclose(shares.sum(axis=0), 1)
    assert labels[0] == "19" and labels[-2:] == ["other", "no answer"] and len(labels) == 7


def test_agreement_writes_the_correlations():
    trace = a_trace()
    rising = Scores.of(trace, "rising", np.arange(12.0))
    falling = Scores.of(trace, "falling", -np.arange(12.0))
    assert [text.get_text() for text in plotting.agreement([rising, falling]).texts] == ["−1.00"]


def test_heat_map_writes_d_and_a_mark_for_the_verdict_and_frames_self_effects():
    ax = plotting.transfer_heat_map(a_matrix())
    assert [t.get_text() for t in ax.texts[:3]] == ["+0.90\n✓", "+0.52\n✓", "−0.21\n–"]
    assert ax.texts[5].get_text() == "n/a\n–" and ax.texts[6].get_text() == "+0.05\n?"
    assert ax.get_title(loc="right") == "✓ transfers   ? inconclusive   – gate failed"
    assert len(ax.patches) == 3
    low, high = ax.images[0].get_clim()
    assert low == -high == -0.9, "the map is centred on 0"
    assert [t.get_text() for t in ax.get_xticklabels()] == ["reasoner", "reasoner-b", "swapped"]


def test_compression_curves_tell_the_anchors_apart_from_many():
    run = a_transfer()
    ax = plotting.compression_curves(run)
    widths = {line.get_label(): line.get_linewidth() for line in ax.lines}
    assert widths["anchors"] == max(widths.values()) and "6 others" in widths and len(ax.lines) == 12
    band = ax.collections[0].get_paths()[0].vertices
    points = next(c for c in run.curve if c.compressor == "anchors").points
    assert band[:, 1].min() == pytest.approx(min(p.outcome.low for p in points))
    drawn = next(line for line in ax.lines if line.get_label() == "anchors")
    assert list(drawn.get_xdata()) == [0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0]
    np.testing.assert_allclose(drawn.get_ydata(), [p.outcome.value for p in points])


def test_compression_curves_of_named_compressors_have_a_hue_each():
    ax = plotting.compression_curves(a_transfer(), compressors=["anchors", "random", "spirit"])
    assert len({line.get_color() for line in ax.lines}) == len(ax.lines) == 3


def test_compression_curves_say_what_was_removed_and_in_which_unit():
    removed = plotting.compression_curves(a_transfer(), arm="deletion")
    assert removed.get_xlabel() == "share of tokens removed" and "nats" in removed.get_ylabel()
    assert "nats" in plotting.compression_curves(a_transfer(outcome="handover")).get_ylabel(), "read forced there"
    assert plotting.compression_curves(a_transfer(outcome="free")).get_ylabel() == "P(answer)"


def test_compression_areas_are_ranked_and_filled_where_they_differ_from_the_anchors():
    ax = plotting.compression_areas(a_transfer())
    names = [t.get_text() for t in ax.get_yticklabels()]
    assert names[:2] == ["reader anchors", "anchors"] and names[-1] == "first"
    dots = [c for c in ax.collections if not str(c.get_label()).startswith(("differs", "not shown"))]
    filled = {n: tuple(d.get_facecolor()[0][:3]) != (1, 1, 1) for n, d in zip(names, dots, strict=True)}
    assert "1 lost at once" in plotting.compression_areas(a_transfer(), arm="deletion").get_xlabel()
    assert filled["anchors"] and filled["first"] and not filled["spirit"]


def test_retention_bars_leave_out_a_writer_that_was_not_measured():
    bars = [b for b in plotting.retention_bars(a_transfer()).patches if np.isfinite(b.get_height())]
    np.testing.assert_allclose([b.get_height() for b in bars], [0.3, 0.5, 0.15])
    assert "1 trace: no interval" in plotting.retention_bars(a_transfer(traces=1)).get_xlabel()


def test_controls_plot_starts_with_the_whole_trace_and_ends_with_its_absence():
    labels = [t.get_text() for t in plotting.controls_plot(a_transfer()).get_yticklabels()]
    assert labels[0] == "whole trace" and labels[1] == "no trace" and "answer only" in labels


def test_shift_plot_gives_slope_and_trend_of_every_axis():
    ax = plotting.shift_plot([a_shift(), a_shift("size", levels=2)])
    words = [t.get_text() for t in ax.texts]
    assert words[::2] == ["task", "size"] and all(w.startswith("slope −0.20 [−0.20") for w in words[1::2])
    assert "trend p = " in words[1] and "trend" not in words[3], "two levels have a slope, but no trend"
    assert len(plotting.shift_plot(a_shift()).get_yticklabels()) == 3


def test_a_run_without_a_verdict_or_interval_is_drawn():
    run = a_transfer(float("nan"), traces=1, verdict="gate failed", gate=a_gate(passed=False), rank=None)
    for draw in (plotting.compression_curves, plotting.retention_bars, plotting.controls_plot):
        draw(run).figure.canvas.draw()


@pytest.mark.parametrize(
    ("draw", "says"),
    [
        (lambda t: plotting.compression_curves(a_transfer(curve=())), "compressors='all'"),
        (lambda t: plotting.compression_curves(a_transfer(), compressors=["magic"]), "no curve of 'magic'"),
        (lambda t: plotting.compression_areas(a_transfer(), arm="stripped"), "no area is defined"),
        (lambda t: plotting.controls_plot(a_transfer(controls=None)), "corrupt=True"),
        (lambda t: plotting.shift_plot([]), "at least one"),
        (lambda t: plotting.matrix(some_scores(t)), "no matrix"),
        (lambda t: plotting.kurtosis(some_scores(t)), "receiver_heads"),
        (lambda t: plotting.category_means([some_scores(t.with_categories([None] * len(t)))]), "with_categories"),
        (lambda t: plotting.accuracy_curves([]), "benchmarks/truth.py"),
        (lambda t: plotting.read_accuracy("x.json", measure="luck"), "measure is 'luck'"),
        (lambda t: plotting.confidence_trace(trace_confidence([np.nan])), "read_traces"),
        (lambda t: plotting.agreement([]), "at least one"),
        (lambda t: plotting.agreement([some_scores(t)]), "two"),
        (lambda t: plotting.answer_distribution(Rollouts.from_texts(t, [])), "resample"),
    ],
)
def test_what_cannot_be_drawn_is_refused_with_a_remedy(draw, says):
    with pytest.raises(ValueError, match=says):
        draw(a_trace())


def test_importing_the_module_imports_neither_matplotlib_nor_torch():
    code = "import sys, anchors.plotting; sys.exit(bool({'matplotlib', 'torch'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

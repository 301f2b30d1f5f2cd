"""The figures of the report: matrices, graph, heads, transfer heat map, and colours that everybody can tell apart."""

from __future__ import annotations

import base64
import re
from itertools import combinations, pairwise
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import false_discovery_control, kurtosis

from anchors.plotting.palette import style_sheet
from anchors.report import drawing, graph, grid, heads, matrices, tokens
from tests.reports import a_trace, data_of, effect_scores, head_scores, suppression_scores, with_p, written
from tests.transfers import a_matrix, a_transfer, retentions


def unpacked(text: str, step: float) -> np.ndarray:
    steps = np.frombuffer(base64.b64decode(text), "<i2")
    return np.where(steps == matrices.BLANK, np.nan, steps * step)


# --- matrices -----------------------------------------------------------------------------------------------


def test_a_full_matrix_survives_packing():
    square = np.array([[np.nan, -2.0], [0.5, 0.0]])
    stored = matrices.packed(square)
    assert not stored["below"]
    np.testing.assert_allclose(unpacked(stored["cells"], stored["step"]).reshape(2, 2), square, atol=1e-4)


def test_a_triangle_travels_row_by_row_with_its_bounds():
    scores = suppression_scores(a_trace())
    bounds = [scores.matrix_low, scores.matrix_high]
    assert scores.matrix is not None
    stored = matrices.packed(scores.matrix, bounds)
    assert stored["below"] and len(unpacked(stored["cells"], 1.0)) == 12 * 11 / 2
    for name, square in zip(("cells", "low", "high"), (scores.matrix, *bounds), strict=True):
        restored = np.full((12, 12), np.nan)
        restored[np.tril_indices(12, -1)] = unpacked(stored[name], stored["step"])
        np.testing.assert_allclose(restored, np.where(np.tri(12, k=-1, dtype=bool), square, np.nan), atol=2e-4)


def test_roots_keep_small_weights_apart():
    weights = np.array([np.nan, 0.0, 1e-4, 0.01, 1.0])
    text, peak = matrices.roots(weights)
    levels = np.frombuffer(base64.b64decode(text), np.uint8)
    assert levels[0] == 0 and levels[1] == 1 and peak == 1.0
    np.testing.assert_allclose(((levels[1:] - 1.0) / 254) ** 2, weights[1:], atol=4e-3, rtol=0.35)


def test_pooled_blocks_keep_their_strongest_cell_and_their_blanks():
    square = np.full((100, 100), np.nan)
    square[60, 10], square[61, 11] = -3.0, 2.0
    blocks = matrices.pooled(square, side=10)
    assert blocks.shape == (10, 10) and blocks[6, 1] == -3.0 and np.isnan(blocks).sum() == 99


# --- graph --------------------------------------------------------------------------------------------------


def test_edges_with_p_values_are_ranked_by_them_and_shown_at_a_false_discovery_rate():
    scores = effect_scores(a_trace())
    found = graph.graph(scores)
    assert found.tested and found.shown == 3 and found.cells == 66
    assert {(e.source, e.target) for e in found.edges[:3]} == {(0, 2), (2, 5), (1, 4)}
    assert found.edges[0][:3] == (0, 2, 0.5), "of equal p the largest effect first"
    p = scores.matrix_p[np.tril_indices(12, -1)]
    np.testing.assert_allclose(sorted(e.q for e in found.edges), sorted(false_discovery_control(p)))


def test_edges_without_p_values_are_ranked_by_size():
    scores = suppression_scores(a_trace())
    found = graph.graph(scores)
    assert scores.matrix is not None
    sizes = np.sort(np.abs(scores.matrix[np.tril_indices(12, -1)]))[::-1]
    np.testing.assert_allclose([abs(e.value) for e in found.edges], sizes)
    assert not found.tested and found.shown == 12 and "they have no p-values" in graph.in_words(found)
    e = found.edges[0]
    assert e.value == scores.matrix[e.target, e.source] and e.low == e.value - 0.5


def test_an_arc_starts_thick_at_its_source_and_ends_in_a_point_at_its_target():
    for source, target in ((1, 7), (7, 1)):
        path = graph.arc(graph.Edge(source, target, 1.0, 0.0, 0.0, 0.0, 0.0), 10)
        numbers = [float(x) for x in re.findall(r"-?[\d.]+", path)]
        start, end, back = numbers[0], numbers[7], numbers[14]
        assert (start + back) / 2 == source * 100 + 50 and abs(start - back) == 5 and end == target * 100 + 50


def test_a_graph_is_drawn_without_a_script(tmp_path):
    trace = a_trace()
    page = written(tmp_path, trace, [effect_scores(trace)])
    inside = page[page.index('id="arcs"') : page.index('id="lineage"')]
    assert inside.count('class="arc ') == 3 and inside.count("arc neg") == 1
    assert "3 edges at a false-discovery rate of 5%, of 66 pairs tested" in inside


# --- heads --------------------------------------------------------------------------------------------------


# --- tokens -------------------------------------------------------------------------------------------------


def test_effects_on_tokens_survive_with_their_places_in_the_text():
    trace = a_trace(texts=("One  two.", "Th\u00e9 <b>four</b>\r\nfive.", " Six seven."))
    scores = suppression_scores(trace)
    found = tokens.record([with_p(a_trace(4)), scores])
    assert found is not None and found["score"] == 1
    lengths = np.frombuffer(base64.b64decode(found["lengths"]), "<u2")
    shown = [drawing.clean(trace.reasoning[s.start : s.end]).strip() for s in trace.sentences]
    first = 0
    for text, end, skip in zip(shown, found["ends"], found["skips"], strict=True):
        cuts = np.cumsum(lengths[first:end])
        cuts = [int(c) + skip for c in np.append(0, cuts)]
        words = [text[a:b] for a, b in pairwise(cuts)]
        assert "".join(words) == text[skip:] and [w.strip() for w in words if w.strip()] == text[skip:].split()
        first = end
    assert found["skips"] == [3, 0, 0], "the token of the line end before the first word reaches into it"
    for source, (start, cells, peak) in found["sources"].items():
        row = scores.token_effects[source].astype(float)
        assert np.isnan(row[:start]).all() and not np.isnan(row[start:]).any()
        levels = np.frombuffer(base64.b64decode(cells), np.uint8).astype(float)
        np.testing.assert_allclose(peak * ((levels - 1) / 254) ** 2, row[start:], atol=0.005 * peak)


def test_marked_sentences_keep_their_tokens_first_when_not_all_fit(monkeypatch):
    trace = a_trace()
    scores = suppression_scores(trace)
    every = tokens.record([scores])
    assert every is not None and sorted(every["sources"]) == list(range(11)), "nothing follows the last sentence"
    monkeypatch.setattr(tokens, "BYTES", 150)
    few = tokens.record([with_p(trace), scores])
    assert few is not None and next(iter(few["sources"])) in {3, 9, 10} and len(few["sources"]) < 5
    assert {3, 9, 10} <= set(few["sources"])


def test_scores_without_tokens_have_none():
    assert tokens.record([with_p(a_trace())]) is None


def test_heads_are_ranked_by_kurtosis_and_their_profiles_survive():
    scores = head_scores(a_trace())
    found = heads.record(scores)
    expected = kurtosis(scores.vertical, axis=-1, nan_policy="omit")
    assert found["ranked"][0] == list(np.unravel_index(np.argmax(expected), expected.shape)) == [1, 2]
    np.testing.assert_allclose(found["kurtosis"], expected, atol=1e-3)
    text, peak = found["profiles"][0]
    levels = np.frombuffer(base64.b64decode(text), np.uint8).astype(float)
    weights = np.where(levels > 0, peak * ((levels - 1) / 254) ** 2, np.nan)
    np.testing.assert_allclose(weights, scores.vertical[1, 2], atol=0.02)
    assert found["chosen"][0] == [1, 2] and len(found["maps"]) == 3 and found["side"] == 12
    cells, top = found["maps"][0]
    levels = np.frombuffer(base64.b64decode(cells), np.uint8).astype(float)
    restored = np.zeros((12, 12))
    restored[np.tril_indices(12)] = np.where(levels > 0, top * ((levels - 1) / 254) ** 2, 0.0)
    np.testing.assert_allclose(restored, scores.pooled[0], atol=0.05)


def test_profiles_and_maps_of_a_long_trace_stay_small():
    trace = a_trace(400)
    found = heads.record(head_scores(trace))
    assert found["side"] == heads.SIDE and len(found["profiles"]) <= heads.PROFILES // 400


def test_scores_without_heads_have_no_head_section(tmp_path):
    assert 'id="heads"' not in written(tmp_path, a_trace()) and data_of(written(tmp_path, a_trace()))["heads"] is None


# --- transfer -----------------------------------------------------------------------------------------------


def test_the_heat_map_names_numbers_verdicts_and_failed_gates():
    found = grid.heat_map(a_matrix())
    assert found["readers"] == ["lab/reasoner", "lab/reasoner-b", "lab/swapped"]
    kind, strength, d, interval, verdict = found["rows"][0][1][0]
    assert (kind, strength, d, verdict) == ("pos", 1.0, "+0.900", "transfers") and interval.startswith("[+0.8")
    assert found["rows"][0][1][2][0] == "neg void" and found["rows"][1][1][2][2] == "not measured"
    assert dict(found["gaps"])["lab/reasoner → lab/reasoner-b less lab/reasoner-b → lab/reasoner"] == "+0.050"


def test_a_report_shows_a_transfer_matrix(tmp_path):
    page = written(tmp_path, a_trace(), [with_p(a_trace()), a_matrix()])
    assert "Transfer between all writers and readers" in page and page.count('class="neg void"') == 1


def test_retention_is_drawn_around_zero():
    found = grid.forest(retentions(0.3, 12))
    assert found is not None and found.zero == 0.0 and [w.kind for w in found.rows] == ["reader", "writer", "reader"]
    first = found.rows[0]
    d = a_transfer().retention[0].reader
    share = (d.value - d.low) / (d.high - d.low)
    assert first.low < first.at < first.high and (first.at - first.low) / (first.high - first.low) == pytest.approx(
        share, abs=0.01
    )
    assert grid.forest(retentions(float("nan"), 1)[:0]) is None


# --- contrast and colour ------------------------------------------------------------------------------------


def luminance(colour: tuple[float, ...]) -> float:
    parts = [c / 12.92 if (c := v / 255) <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for v in colour]
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]


def contrast(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


def rgb(text: str) -> tuple[float, ...]:
    if text[0] == "#":
        digits = text[1:] if len(text) == 7 else "".join(2 * c for c in text[1:])
        return tuple(int(digits[i : i + 2], 16) for i in (0, 2, 4))
    return tuple(map(float, text.split()))


def palettes() -> dict[str, dict[str, str]]:
    folder = Path(drawing.__file__).parent / "page" / "css"
    text = style_sheet()
    assert text.count("@media") == text.count("@media screen and (prefers-color-scheme: dark)") == 1, "paper is light"
    blocks = re.findall(r":root \{(.*?)\}", text, re.DOTALL)[1:]
    light, dark = (dict(re.findall(r"--([\w]+): ([^;]+);", block)) for block in blocks)
    assert light.keys() == dark.keys()
    (printed,) = re.findall(r":root \{(.*?)\}", (folder / "print.css").read_text(), re.DOTALL)
    paper = dict(re.findall(r"--([\w]+): ([^;]+);", printed))
    return {"light": light, "dark": light | dark, "print": light | paper}


@pytest.fixture(params=["light", "dark", "print"])
def colours(request) -> dict[str, str]:
    return palettes()[request.param]


def tints(colours: dict[str, str], *, ink: float) -> list[tuple[float, ...]]:
    ground = rgb(colours["bg"])
    return [
        tuple(ink * t + (1 - ink) * g for t, g in zip(rgb(colours[c]), ground, strict=True)) for c in ("pos", "neg")
    ]


def test_every_text_meets_wcag_aa_on_every_ground(colours):
    for text in ("fg", "dim", "link"):
        for ground in ("bg", "soft"):
            assert contrast(rgb(colours[text]), rgb(colours[ground])) >= 4.5, (text, ground)
    assert contrast(rgb(colours["bg"]), rgb(colours["fg"])) >= 4.5, "the tip is inverted"
    for strength in (0.25, 0.5, 1.0):
        for tint in tints(colours, ink=strength * float(colours["ink"])):
            assert contrast(rgb(colours["fg"]), tint) >= 4.5, strength


def test_every_graphic_stands_out_from_its_ground(colours):
    names = ["pos", "neg", "floor", "dim", *(f"a{i}" for i in range(7))]
    names += ["setup", "plan", "fact", "compute", "result", "uncertain", "answer", "check", "other"]
    for name in names:
        assert contrast(rgb(colours[name]), rgb(colours["bg"])) >= 3.0, name
    assert contrast(rgb(colours["dim"]), rgb(colours["a7"])) >= 3.0, "no answer is outlined"


# Machado, Oliveira and Fernandes 2009, full severity, on linear RGB.
BLINDNESS = {
    "none": np.eye(3),
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritan": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


def lab(colour: tuple[float, ...], sight: str) -> np.ndarray:
    """CIE L*a*b* (D65) of an sRGB colour as somebody sees it."""
    c = np.array(colour) / 255
    linear = np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)
    linear = np.clip(np.array(BLINDNESS[sight]) @ linear, 0, 1)
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ linear
    f = np.array([x ** (1 / 3) if x > 0.008856 else 7.787 * x + 16 / 116 for x in xyz / [0.9505, 1.0, 1.089]])
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("sight", BLINDNESS)
def test_support_and_opposition_look_different_to_everybody(colours, sight):
    pos, neg = (lab(tint, sight) for tint in tints(colours, ink=float(colours["ink"])))
    assert np.linalg.norm(pos - neg) >= 30
    assert np.linalg.norm(lab(rgb(colours["pos"]), sight) - lab(rgb(colours["neg"]), sight)) >= 40


@pytest.mark.parametrize("sight", BLINDNESS)
def test_answers_look_different_to_everybody(colours, sight):
    seen = {name: lab(rgb(colours[name]), sight) for name in ("a0", "a1", "a2", "a3", "a4", "a5", "a6", "a7")}
    gaps = {(a, b): np.linalg.norm(seen[a] - seen[b]) for a, b in combinations(seen, 2)}
    assert min(gaps.values()) >= 10, min(gaps, key=lambda pair: gaps[pair])
    assert gaps["a0", "a1"] >= 40, "the own answer and the first other"

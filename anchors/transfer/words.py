"""A transfer run in plain words, for the terminal and the report."""

from __future__ import annotations

from collections.abc import Iterator

from anchors.transfer.results import Condition, Controls, Curve, Rank, Retention, Transfer


def in_words(run: Transfer) -> str:
    """Verdict first, then what it rests on."""
    traces = f"{run.traces} trace" if run.traces == 1 else f"{run.traces} traces"
    lines = [
        f"{run.writer} -> {run.reader}: {run.verdict.upper()}",
        f"  {run.reason}",
        f"  {run.method} anchors, outcome: {run.unit}; {traces}, {run.anchors} anchors matched, "
        f"{run.unmatched} not ({_share(run.unmatched, run.anchors + run.unmatched)})",
        "gate (fixed before the run)",
    ]
    lines += [f"  {_mark(c.passed)} {c.name}: {c.found}{_bars(c)}" for c in run.gate.conditions]
    lines += ["retention (reader's effect of the anchors over matched controls)"]
    lines += [line for retention in run.retention for line in _retention(retention)]
    balance = ", ".join(f"{b.variable} {_number(b.difference, '+.2f', ' sd')}" for b in run.balance)
    lines += [f"  balance: {balance}"] if balance else []
    lines += list(_rank(run.rank)) if run.rank else []
    lines += list(_curves(run.curve))
    lines += list(_controls(run.controls)) if run.controls else []
    lines += list(_pairs(run)) if run.pairs else []
    lines += [f"  left out: {reason}" for reason in run.excluded]
    lines += [f"  not measured: {reason}" for reason in run.details["not measured"]]
    alone = run.details["P(answered), whole trace and none"]
    if alone[0] == alone[0]:
        lines += [
            f"answered at all: {alone[0]:.0%} with the whole trace, {alone[1]:.0%} without; no answer counts as not reaching it"
        ]
    held = run.details["secondary tests, Holm p"]
    secondary = ", ".join(f"{name} p = {_number(p, '.2g')}" for name, p in held.items())
    lines += [f"secondary tests, Holm: {secondary}"] if held else []
    lines += ["one writer and one reader model: nothing is said about other training seeds of either"]
    return "\n".join(lines)


def _number(value: float, form: str = "+.3f", unit: str = "") -> str:
    return "not measured" if value != value else format(value, form) + unit


def _range(low: float, high: float, form: str = "+.3f") -> str:
    return "(no interval)" if low != low else f"[{low:{form}}, {high:{form}}]"


def _mark(passed: bool | None) -> str:
    return {True: "passed ", False: "FAILED ", None: "unknown"}[passed]


def _bars(condition: Condition) -> str:
    return "" if condition.shuts or condition.passed else " (bars a verdict of absence, does not shut the gate)"


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.0%}" if whole else "none"


def _retention(r: Retention) -> Iterator[str]:
    yield f"  {r.operation}: d = {r.reader}; bootstrap {_range(r.reader.boot_low, r.reader.boot_high)}"
    anchors, controls = _number(r.anchors.value), _number(r.controls.value)
    yield f"    anchors {anchors}, controls {controls}; per token removed {_number(r.per_token.value, '+.4f')}"
    if r.writer is not None:
        yield f"    in the writer: d = {r.writer}"
    if r.ratio is not None:
        yield f"    retained: {_number(r.ratio[0], '.2f')} of the writer's effect {_range(*r.ratio[1:], '.2f')}"
    if r.given_answer is not None:
        yield f"    over the continuations that answer: d = {r.given_answer}"
    if r.partial:
        yield f"    {r.partial}"


def _rank(rank: Rank) -> Iterator[str]:
    yield f"rank agreement with {rank.compared}"
    yield f"  Spearman {rank.spearman}; permutation within traces p = {_number(rank.p, '.2g')}"
    taken = f"position, length, mention, headroom, perplexity taken out: {rank.partial}"
    yield f"  Kendall {_number(rank.kendall.value)}; {taken}"
    if rank.ceiling == rank.ceiling:
        yield (
            f"  ceiling {rank.ceiling:.2f} (reliability {rank.writer_reliability:.2f} and {rank.reader_reliability:.2f}); "
            f"{rank.corrected:.2f} of it reached"
        )
    overlap, chance = _number(rank.overlap, ".2f"), _number(rank.chance, ".2f")
    yield f"  overlap of the top {overlap}, by chance {chance}, p = {_number(rank.overlap_p, '.2g')}"
    p = rank.percentile
    found = f"{_number(p.value, '.2f')} {_range(p.low, p.high, '.2f')}"
    yield f"  the anchors' percentile in the reader {found}, 0.50 where unrelated"


def _curves(curves: tuple[Curve, ...]) -> Iterator[str]:
    for arm in dict.fromkeys(curve.arm for curve in curves):
        ends = (
            "0 nothing lost before the end, 1 all at once" if arm == "deletion" else "0 no trace, 1 whole trace at once"
        )
        yield f"compression, {arm}: normalised area ({ends}); anchors less each, Holm"
        rows = sorted((c for c in curves if c.arm == arm), key=lambda c: -c.area if c.area == c.area else 0.0)
        for c in rows:
            gain = (
                ""
                if c.gain != c.gain
                else f"  gain {c.gain:+.3f} [{c.gain_low:+.3f}, {c.gain_high:+.3f}], p = {c.p:.2g}"
            )
            area = "undefined: the whole trace is no better than none" if c.area != c.area else ""
            yield f"  {c.compressor:22s} {area or f'{c.area:+.3f} [{c.area_low:+.3f}, {c.area_high:+.3f}]'}{gain}"


def _controls(controls: Controls) -> Iterator[str]:
    yield "the trace shown otherwise (outcome of the reader)"
    yield "  " + ", ".join(f"{name} {_number(mean.value)}" for name, mean in controls.outcomes.items())
    for c in controls.contrasts:
        yield f"  {c.name} ({c.formula}): {c.difference}, Holm p = {_number(c.p_holm, '.2g')}"
    if controls.recovery:
        altered, plain = (
            ", ".join(f"{kind} {share:.0%}" for kind, share in row.items()) or "not read"
            for row in (controls.recovery, controls.unaltered)
        )
        yield f"  after a number of an anchor was altered the reader: {altered}; unaltered: {plain}"


def _pairs(run: Transfer) -> Iterator[str]:
    found = run.pairs or {}
    yield "pairs preset (partner within 4 sentences)"
    yield (
        f"  {found['pairs']} pairs, mean d {found['mean d']:+.3f}, trace means {found['trace means']}, "
        f"permutation within sentence p = {found['p within sentence']:.2g}"
    )
    second = found["second partner"]
    yield (
        f"  with the second nearest partner: {second['pairs']} pairs, mean d {second['mean d']:+.3f}, trace means "
        f"{second['trace means']}, p = {second['p within sentence']:.2g}"
    )
    low, high = found["percentile interval"]
    yield f"  dense profile: anchors' percentile {found['percentile']:.3f} [{low:.3f}, {high:.3f}], p = {found['percentile p']:.2g}"

"""How well a small model learned its world: steps, answers, distance from exact truth, and what it does with a trace.

1. The model reasons on freshly drawn problems (the shortest recur in training). Its traces are read by the program: a
   step (a computation or a recalled fact) is right unless it is an anchor; where the text leaves the program, the trace
   counts as off it, and as a wrong step if one was due.
2. Calibration: at every boundary of traces the world wrote, n rollouts against the exact answer distribution; and, without
   sampling, the probability of every sentence that may come next against the world's.
3. Self-checks: the probability of the verdict a check must come to, after a slip and after none.
4. Use of the trace: answers forced after the model is handed a whole trace of its own problem that ends on a wrong
   answer, a right trace of another problem, and no trace at all.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from anchors.answers import NO_ANSWER, extract_answer
from anchors.lab.truth import answer_distribution
from anchors.lab.worlds import Move, World, Written, answers_here, continuations, read_moves, write
from anchors.models.base import Job, Model, Sampling, Scored
from anchors.splitting import split_sentences
from anchors.stats import cluster_bootstrap, pooled_mean

GREEDY = 0.01
"""The temperature at which a forced answer is read off."""


@runtime_checkable
class Scorer(Protocol):
    """All that exact distances ask of a model."""

    def score(self, texts: Sequence[str], starts: Sequence[int]) -> list[Scored]:
        """Log-probability of the characters from `starts[i]` to the end of `texts[i]`."""
        ...


class Traces(NamedTuple):
    """Figures of the traces a model writes; `ceiling` and `steps_ceiling` are what a perfect copy of the world gets.

    `steps_right`: share of written steps that are right, NaN without any. `on_program`: share of traces the
    world could have written word for word. `answered`, `gold`: shares of traces. `tokens`: mean length.
    """

    traces: int
    steps_right: float
    steps_ceiling: float
    on_program: float
    answered: float
    gold: float
    ceiling: float
    tokens: float


class Calibration(NamedTuple):
    """Mean total variation to the exact answer distribution over boundaries; `tv_floor` is a perfect copy's.

    `tv_low`, `tv_high`: 95 % bootstrap over traces, NaN for a single one.
    """

    boundaries: int
    rollouts: int
    tv: float
    tv_low: float
    tv_high: float
    tv_floor: float


class Checks(NamedTuple):
    """Mean probability of the verdict a self-check must come to: after a slip, and after none; NaN without such checks."""

    checks: int
    finds_slip: float
    passes_right: float


class TraceUse(NamedTuple):
    """Shares of forced answers, each over `handed` problems.

    `follows_wrong`: equal to the answer of a trace of the same problem that ends wrong. `gold_given_wrong`: right all
    the same. `follows_swapped`: equal to the answer of another problem's right trace. `gold_given_swapped`: right for
    the problem asked. `gold_given_none`: right with no trace at all.
    """

    handed: int
    follows_wrong: float
    gold_given_wrong: float
    follows_swapped: float
    gold_given_swapped: float
    gold_given_none: float


def written_traces(model: Model, world: World, *, problems: int = 200, seed: int = 0) -> Traces:
    """Let the model reason on `problems` freshly drawn problems and read what it wrote."""
    rng = random.Random(f"held out {seed}")
    drawn = [world.problem(rng) for _ in range(problems)]
    completions = _continuations(model, [world.prompt(p) for p in drawn], seed=seed)
    texts = [completion.text for completion in completions]
    answers = [extract_answer(text) for text in texts]
    read = [_read(world, p, text) for p, text in zip(drawn, texts, strict=True)]
    right, ideal = np.array([r.right for r in read]), np.array([r.ideal for r in read])
    steps = sum(r.steps for r in read)
    ceiling = [answer_distribution(world, world.start(p)).get(world.gold(p), 0.0) for p in drawn]
    return Traces(
        traces=problems,
        steps_right=float(right.sum() / steps) if steps else float("nan"),
        steps_ceiling=float(ideal.sum() / steps) if steps else float("nan"),
        on_program=float(np.mean([r.follows for r in read])),
        answered=float(np.mean([answer is not None for answer in answers])),
        gold=float(np.mean([answer == world.gold(p) for answer, p in zip(answers, drawn, strict=True)])),
        ceiling=float(np.mean(ceiling)),
        tokens=float(np.mean([completion.tokens for completion in completions])),
    )


class _Reading(NamedTuple):
    """One trace read by the program; `ideal` is the number of right steps the program itself would have written."""

    follows: bool
    steps: int
    right: int
    ideal: float


def _read(world: World, problem: object, text: str) -> _Reading:
    reasoning = text.split("\n</think>")[0]
    sentences = [reasoning[a:b] for a, b in split_sentences(reasoning)]
    moves = read_moves(world, problem, sentences)
    states = [world.start(problem), *(move.state for move in moves)]
    right, chances = [], []
    for index, state in enumerate(states[: len(sentences)]):
        due = [m for m in world.moves(state) if m.is_step]
        written = moves[index] if index < len(moves) else None
        if due and (written is None or written in due):
            right.append(written is not None and written.role != "anchor")
            chances.append(_share_right(due))
    whole = len(moves) == len(sentences)
    ending = text[len(reasoning) :]
    follows = whole and any(ending == world.ending(answer) for answer in answers_here(world, states[-1]))
    return _Reading(follows, len(right), sum(right), float(sum(chances)))


def _share_right(due: Sequence[Move]) -> float:
    return sum(m.probability for m in due if m.role != "anchor") / sum(m.probability for m in due)


def calibration(model: Model, world: World, *, traces: int = 12, n: int = 200, seed: int = 0) -> Calibration:
    """n rollouts at every boundary of `traces` traces of the world, against exact truth."""
    rng, noise = random.Random(f"boundaries {seed}"), np.random.default_rng(seed)
    found, floor = [], []
    for index in range(traces):
        written = write(world, world.problem(rng), rng)
        text, ends = _boundaries(world, written)
        jobs = [Job(text, end, f"boundaries {index}", k, s) for k, end in enumerate(ends) for s in range(n)]
        counts = [Counter[str]() for _ in ends]
        for job, completion in model.generate(jobs, sampling=model.sampling, seed=seed):
            counts[job.position][extract_answer(completion.text) or NO_ANSWER] += 1
        here = []
        for state, count in zip(written.states, counts, strict=True):
            truth = answer_distribution(world, state)
            here.append(_tv(truth, lambda a, c=count: c[a] / n, set(count)))
            drawn = noise.multinomial(n, np.array(list(truth.values())) / sum(truth.values()))
            copy = dict(zip(truth, drawn / n, strict=True))
            floor.append(_tv(truth, lambda a, c=copy: c.get(a, 0.0), set()))
        found.append(here)
    every = np.concatenate(found)
    low = high = float("nan")
    if traces > 1:
        low, high = cluster_bootstrap(found, pooled_mean)
    return Calibration(len(every), n, float(every.mean()), float(low), float(high), float(np.mean(floor)))


def _boundaries(world: World, written: Written) -> tuple[str, list[int]]:
    """The text of a trace, and where its boundaries are in it."""
    prompt = world.prompt(written.problem)
    ends = [len(prompt) + len(" ".join(m.text for m in written.moves[:k])) for k in range(len(written.states))]
    return prompt + written.reasoning, ends


def sentence_distances(model: Scorer, world: World, written: Written) -> list[float]:
    """Total variation between the model's and the world's next sentence at every boundary of a trace, exactly.

    The probability the model gives to anything else counts as its own outcome. A sentence that ends the trace is read
    with the answer after it.
    """
    text, ends = _boundaries(world, written)
    found = []
    for k, (state, end) in enumerate(zip(written.states, ends, strict=True)):
        due = continuations(world, state, first=k == 0)
        given = _probabilities(model, text[:end], list(due))
        apart = sum(abs(p - q) for p, q in zip(due.values(), given, strict=True))
        found.append((apart + max(0.0, 1.0 - sum(given))) / 2)
    return found


def _probabilities(model: Scorer, prefix: str, continued: Sequence[str]) -> list[float]:
    texts = [prefix + text for text in continued]
    return [float(np.exp(scored.logprob)) for scored in model.score(texts, [len(prefix)] * len(texts))]


def self_checks(model: Scorer, world: World, *, checks: int = 100, seed: int = 0) -> Checks:
    """The verdicts of `checks` checks after a slip and as many after none, in traces the world writes.

    A verdict is the one sentence that may follow a check; where 100 times as many traces hold too few, those found.
    """
    rng = random.Random(f"checks {seed}")
    found: dict[str, list[float]] = {"anchor": [], "filler": []}
    for _ in range(100 * checks):
        if all(len(given) >= checks for given in found.values()):
            break
        written = write(world, world.problem(rng), rng)
        for k, move in enumerate(written.moves[1:], 1):
            given = found.get(move.role, [])
            pair = {written.moves[k - 1].category, move.category}
            if pair == {"self_checking"} and move.role in found and len(given) < checks:
                text, ends = _boundaries(world, written)
                given += _probabilities(model, text[: ends[k]], [" " + move.text])
    mean = {role: float(np.mean(given)) if given else float("nan") for role, given in found.items()}
    return Checks(sum(map(len, found.values())), mean["anchor"], mean["filler"])


def _tv(truth: dict[str, float], share: Callable[[str], float], seen: set[str]) -> float:
    return sum(abs(truth.get(a, 0.0) - share(a)) for a in truth.keys() | seen) / 2


def trace_use(model: Any, world: World, *, problems: int = 200, seed: int = 0) -> TraceUse:
    """What forced answers follow: the trace that was handed over, or the question.

    Where the world writes too few traces that end wrong, the figures about them are NaN.
    """
    drawn = _handed(world, problems, seed, wrong=True)
    mistakes = len(drawn) == problems
    drawn = drawn if mistakes else _handed(world, problems, seed, wrong=False)
    if len(drawn) < problems:  # the world never ends right
        return TraceUse(len(drawn), *[float("nan")] * 5)
    asked, bad, good = zip(*drawn, strict=True)
    gold = [world.gold(p) for p in asked]
    follows_wrong = gold_given_wrong = float("nan")
    if mistakes:
        given_wrong = _forced(model, world, asked, [reasoning for reasoning, _ in bad], seed)
        follows_wrong = _agreement(given_wrong, [answer for _, answer in bad])
        gold_given_wrong = _agreement(given_wrong, gold)
    given_swapped = _forced(model, world, asked, [reasoning for reasoning, _ in good], seed)
    given_none = _forced(model, world, asked, [""] * problems, seed)
    return TraceUse(
        problems,
        follows_wrong,
        gold_given_wrong,
        _agreement(given_swapped, [answer for _, answer in good]),
        _agreement(given_swapped, gold),
        _agreement(given_none, gold),
    )


def _handed(world: World, problems: int, seed: int, *, wrong: bool) -> list[tuple[Any, Any, tuple[str, str]]]:
    """Problems, each with a trace of its own that ends wrong (None unless `wrong`) and another's that ends right."""
    rng, found = random.Random(f"trace use {seed}"), []
    for _ in range(10 * problems):
        if len(found) == problems:
            break
        problem, other = world.problem(rng), world.problem(rng)
        bad = _ending_on(world, problem, rng, right=False) if wrong else None
        good = _ending_on(world, other, rng, right=True)
        if (bad is not None or not wrong) and good is not None and world.gold(other) != world.gold(problem):
            found.append((problem, bad, (good[0], world.gold(other))))
    return found


def _ending_on(world: World, problem: Any, rng: random.Random, *, right: bool) -> tuple[str, str] | None:
    """A trace of the problem that ends on the right or on a wrong answer, within 20 tries."""
    for _ in range(20):
        written = write(world, problem, rng)
        answer = world.answer(written.end)
        if answer is not None and (answer == world.gold(problem)) == right:
            return written.reasoning, answer
    return None


def _forced(model: Any, world: World, asked: Sequence[Any], reasonings: Sequence[str], seed: int) -> list[str | None]:
    stub = model.stub.before.rstrip(" ")
    texts = [world.prompt(p) + reasoning + stub for p, reasoning in zip(asked, reasonings, strict=True)]
    found = _continuations(model, texts, seed=seed, temperature=GREEDY, limit=32)
    return [extract_answer(stub + completion.text) for completion in found]


def _agreement(answers: Sequence[str | None], wanted: Sequence[str]) -> float:
    return float(np.mean([a == b for a, b in zip(answers, wanted, strict=True)]))


def _continuations(
    model: Model, texts: Sequence[str], *, seed: int, temperature: float | None = None, limit: int | None = None
) -> list[Any]:
    """One completion a text."""
    sampling = model.sampling
    if temperature is not None:
        sampling = Sampling(temperature, 1.0, limit or sampling.max_new_tokens, sampling.stop)
    jobs = [Job(text, len(text), f"evaluate {i}", 0, 0) for i, text in enumerate(texts)]
    found = {job.trace: completion for job, completion in model.generate(jobs, sampling=sampling, seed=seed)}
    return [found[job.trace] for job in jobs]

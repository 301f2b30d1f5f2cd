"""The `recall` world: follow a chain of facts through a long context; the trace can stand in for the context (2605.28713).

Problem: ``Facts: planet gives 4. candle gives river. river gives 7. ... What does candle give in two hops?`` A second
chain of as many hops starts from a key that shares its first letters with the one asked for (candle, candy).

| state | sentence | category, role | next |
|---|---|---|---|
| setup | ``We look for what candle gives in two hops.`` | problem_setup, restatement | filler (.4), decoy (.3) or recall |
| filler | one of four phrases | plan_generation, filler | decoy (.3) or recall |
| decoy | ``We also see that planet gives 4.``, a fact off the chain | fact_retrieval, decoy | recall |
| recall | ``candle gives river.``; p .12 the value of another fact | fact_retrieval, needed (wrong: anchor) | doubt or next |
| doubt | after a wrong value, .3: ``Wait, that is another fact.`` | uncertainty_management, anchor | restart |
| next | ``So we look for river next.``; after the last hop finish | result_consolidation, needed | recall |
| finish | with p .4 ``Let me look at the facts again.`` | self_checking, anchor after a mistake, else filler | verdict |
| verdict | ``One fact was wrong.`` / ``Every fact is right.`` | self_checking, anchor / filler | restart / last |
| restart | ``Start again from candle.`` (from here every fact is right) | problem_setup, needed | recall |
| last | ``That leaves 7.`` | result_consolidation, needed | end |

A wrong value is one of up to `distractors` values of other facts, all equally likely, that leave as many hops to go as
the right one; the fact of the similar key comes first, then the order of the context. So every trace can end, and ends
on the value of a last hop. A check happens at most once; the answer is the last value. Knobs of the shift axes:
`length` (how many facts), `tasks` (how many hops) and `noise` (words of the prompt lost or spoiled). `context=False`
asks the question without the facts, for a reader that is given a trace instead of them.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import islice, pairwise
from typing import Final

from anchors.lab.worlds import Move, either, perturbed, possible

Fact = tuple[str, str]
Facts = tuple[Fact, ...]
Problem = tuple[Facts, str, int]

HOPS: Final = {"one hop": 1, "two hops": 2, "three hops": 3, "four hops": 4}
FILLERS: Final = ("Okay, let me think.", "Let me take it slowly.", "This needs some care.", "One thing at a time.")
PAIRS: Final = tuple(
    re.findall(
        r"(\w+) (\w+)",
        "candle candy, market marble, winter window, silver silk, planet plant, basket basin, garden garlic, lemon lemur, "
        "monkey money, pencil penny, bridge brick, carpet carrot, river rivet, flower flour, forest fork, hammer hamlet, "
        "kitten kite, magnet magic, pillow pilot, shadow shark, spider spice, stone stove, tunnel tuna, violin violet, "
        "button butter, circle circus, coral corn, dragon drama, grape grass, parrot parcel, robin robot, turtle turnip",
    )
)
"""Words that share their first three letters; together they are all the names of the world."""
NAMES: Final = tuple(name for pair in PAIRS for name in pair)
SIMILAR: Final = {a: b for pair in PAIRS for a, b in (pair, pair[::-1])}
_FACT: Final = re.compile(r"(?<![a-z])([a-z]++) gives ([a-z\d]++)")
_PROMPT: Final = re.compile(
    r"Facts: ((?:[a-z]+ gives [a-z\d]+\. )+)What does ([a-z]+) give in (\w+ hops?)\?\n<think>\n"
)


def follow(values: Mapping[str, str], key: str, hops: int) -> str | None:
    """The word `hops` facts after `key`, None where the chain is shorter.

    >>> follow({"river": "7", "candle": "river"}, "candle", 2)
    '7'
    """
    for _ in range(hops):
        if key not in values:
            return None
        key = values[key]
    return key


@dataclass(frozen=True, slots=True)
class State:
    """What the program remembers at a sentence boundary.

    `word` is the word reached after `hop` facts; `mistaken` says that one of them was wrong; after a restart the
    program is `careful` and recalls every fact right.
    """

    problem: Problem
    word: str
    phase: str
    hop: int = 0
    mistaken: bool = False
    careful: bool = False
    checked: bool = False
    event: str = field(default="", compare=False)


@dataclass(frozen=True)
class RecallWorld:
    """Knobs of the program; the defaults are meant for training."""

    name: str = "recall"
    length: tuple[int, int] = (8, 12)
    tasks: tuple[int, ...] = (2,)
    noise: float = 0.0
    noise_kind: str = "hybrid"
    context: bool = True
    filler: float = 0.4
    decoy: float = 0.3
    wrong: float = 0.12
    distractors: int = 3
    reconsider: float = 0.3
    check: float = 0.4

    def __post_init__(self) -> None:
        if not self.tasks or not set(self.tasks) <= set(HOPS.values()):
            raise ValueError(f"tasks is {self.tasks}; it needs numbers of hops from 1 to {max(HOPS.values())}")
        if not 2 * max(self.tasks) < self.length[0] <= self.length[1] <= len(NAMES):
            raise ValueError(
                f"length is {self.length}; {max(self.tasks)} hops need between {2 * max(self.tasks) + 1} "
                f"and {len(NAMES)} facts"
            )

    def problem(self, rng: random.Random) -> Problem:
        hops, size = rng.choice(self.tasks), rng.randint(*self.length)
        pair = rng.sample(rng.choice(PAIRS), 2)
        names = iter(rng.sample([name for name in NAMES if name not in pair], size - 2))
        digits = rng.sample("0123456789", 10)
        chains = max(2, (size + 1) // (hops + 1))
        facts: list[Fact] = []
        for i, long in enumerate([hops] * chains + [1] * (size - chains * hops)):
            head = pair[i] if i < 2 else next(names)
            facts += pairwise([head, *islice(names, long - 1), digits[i % 10]])
        rng.shuffle(facts)
        return tuple(facts), pair[0], hops

    def prompt(self, problem: Problem) -> str:
        facts, key, hops = problem
        rng = random.Random(f"noise {problem}")

        def noised(text: str) -> str:
            return " ".join(perturbed(text.split(), self.noise, rng, kind=self.noise_kind))

        said = [f"{noised('Facts:')} ".lstrip(), *(f"{noised(f'{k} gives {v}')}. " for k, v in facts)]
        question = noised(f"What does {key} give in {_hops(hops)}")
        return f"{''.join(said) if self.context else ''}{question}?\n<think>\n"

    def parse(self, prompt: str) -> Problem:
        if not self.context:
            raise ValueError(
                "a question without its facts has no answer: the prompt does not hold the problem; use context=True"
            )
        match = _PROMPT.fullmatch(prompt)
        facts = tuple(_FACT.findall(match[1])) if match else ()
        hops = HOPS.get(match[3], 0) if match else 0
        if match is None or not hops or len(dict(facts)) < len(facts) or follow(dict(facts), match[2], hops) is None:
            raise ValueError(
                f"{prompt[:80]!r} is not a question of `{self.name}` that its facts answer, such as "
                "'Facts: candle gives river. river gives 7. What does candle give in two hops?'"
            )
        return facts, match[2], hops

    def start(self, problem: Problem) -> State:
        return State(problem, problem[1], "setup")

    def answer(self, state: State) -> str | None:
        return state.word if state.phase == "end" else None

    def gold(self, problem: Problem) -> str:
        facts, key, hops = problem
        found = follow(dict(facts), key, hops)
        assert found is not None
        return found

    def ending(self, answer: str) -> str:
        return f"\n</think>\nThe answer is {answer}."

    def meaning(self, sentence: str) -> str:
        text = sentence.strip()
        return "filler" if text in FILLERS else text

    def moves(self, state: State) -> tuple[Move, ...]:
        return _moves(self, state)


def _hops(hops: int) -> str:
    return next(text for text, n in HOPS.items() if n == hops)


@lru_cache(maxsize=1 << 14)
def _moves(world: RecallWorld, state: State) -> tuple[Move, ...]:
    if state.phase == "end":
        return ()
    phases = {"setup": _setup, "opening": _opening, "decoy": _decoy, "recall": _recall, "doubt": _doubt}
    phases |= {"next": _next, "finish": _finish, "verdict": _verdict, "restart": _restart, "last": _last}
    return possible(phases[state.phase](world, state))


def _setup(world: RecallWorld, state: State) -> tuple[Move, ...]:
    to = replace(state, phase="opening", event="setup")
    text = f"We look for what {state.word} gives in {_hops(state.problem[2])}."
    return (Move(1.0, text, "problem_setup", "restatement", to, writes=("word",), draft=""),)


def _opening(world: RecallWorld, state: State) -> tuple[Move, ...]:
    to = replace(state, phase="decoy", event="filler")
    fillers = [Move(1 / len(FILLERS), text, "plan_generation", "filler", to, draft="") for text in FILLERS]
    return either(fillers, world.filler, lambda: _decoy(world, state))


def _decoy(world: RecallWorld, state: State) -> tuple[Move, ...]:
    facts, key, hops = state.problem
    values = dict(facts)
    chain = {follow(values, key, hop) for hop in range(hops)}
    others = [(k, v) for k, v in facts if k not in chain]
    moves = []
    for k, v in others:
        to = replace(state, phase="recall", event=f"decoy {k}")
        text = f"We also see that {k} gives {v}."
        moves.append(Move(1 / len(others), text, "fact_retrieval", "decoy", to, draft=""))
    return either(moves, world.decoy if moves else 0.0, lambda: _recall(world, state))


def _recall(world: RecallWorld, state: State) -> tuple[Move, ...]:
    right = dict(state.problem[0])[state.word]
    others = () if state.careful or world.wrong == 0 else _wrong_values(world, state)
    found = [(right, 1 - world.wrong if others else 1.0), *((value, world.wrong / len(others)) for value in others)]
    moves = []
    for value, p in found:
        wrong = value != right
        to = replace(
            state,
            word=value,
            hop=state.hop + 1,
            phase="doubt" if wrong else "next",
            mistaken=state.mistaken or wrong,
            event=f"{'wrong' if wrong else 'right'} {state.word} {value}",
        )
        text, draft = f"{state.word} gives {value}.", f"So {state.word}: {value}."
        role, writes = "anchor" if wrong else "needed", ("word", f"fact {state.hop}")
        moves.append(Move(p, text, "fact_retrieval", role, to, ("word",), writes, draft))
    return tuple(moves)


def _wrong_values(world: RecallWorld, state: State) -> tuple[str, ...]:
    """Values of other facts that leave exactly as many hops to go as the right one, the similar key's first."""
    facts, _, hops = state.problem
    values, rest, similar = dict(facts), hops - state.hop - 1, SIMILAR.get(state.word)
    others = [value for _, value in sorted(facts, key=lambda fact: fact[0] != similar) if value != values[state.word]]
    fit = [v for v in others if follow(values, v, rest) and follow(values, v, rest + 1) is None]
    return tuple(dict.fromkeys(fit))[: world.distractors]


def _doubt(world: RecallWorld, state: State) -> tuple[Move, ...]:
    to = replace(state, phase="restart", event="doubt")
    text, category = "Wait, that is another fact.", "uncertainty_management"
    wait = Move(1.0, text, category, "anchor", to, ("word",), ("restart",), "Wait, another fact.")
    return either([wait], world.reconsider, lambda: _next(world, state))


def _next(world: RecallWorld, state: State) -> tuple[Move, ...]:
    if state.hop == state.problem[2]:
        return _finish(world, state)
    to = replace(state, phase="recall", event=f"next {state.word}")
    text = f"So we look for {state.word} next."
    return (Move(1.0, text, "result_consolidation", "needed", to, ("word",), ("word",), ""),)


def _finish(world: RecallWorld, state: State) -> tuple[Move, ...]:
    to = replace(state, phase="verdict", checked=True, event="check")
    role = "anchor" if state.mistaken else "filler"
    reads, text = tuple(f"fact {hop}" for hop in range(state.hop)), "Let me look at the facts again."
    check = Move(1.0, text, "self_checking", role, to, reads, ("check",), "Check the facts.")
    return either([check], 0.0 if state.checked else world.check, lambda: _last(world, state))


def _verdict(world: RecallWorld, state: State) -> tuple[Move, ...]:
    reads = "check", *(f"fact {hop}" for hop in range(state.hop))
    if state.mistaken:
        to = replace(state, phase="restart", event="found mistake")
        return (Move(1.0, "One fact was wrong.", "self_checking", "anchor", to, reads, ("restart",), "One is wrong."),)
    to = replace(state, phase="last", event="verdict")
    return (Move(1.0, "Every fact is right.", "self_checking", "filler", to, reads, draft="All are right."),)


def _restart(world: RecallWorld, state: State) -> tuple[Move, ...]:
    key = state.problem[1]
    to = replace(state, word=key, hop=0, phase="recall", mistaken=False, careful=True, event="restart")
    return (Move(1.0, f"Start again from {key}.", "problem_setup", "needed", to, ("restart",), ("word",), ""),)


def _last(world: RecallWorld, state: State) -> tuple[Move, ...]:
    to = replace(state, phase="end", event=f"leaves {state.word}")
    return (Move(1.0, f"That leaves {state.word}.", "result_consolidation", "needed", to, ("word",), ("word",), ""),)


WORLD = RecallWorld()

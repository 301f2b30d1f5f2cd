"""The `null` world: a trace that means nothing. Its answer is drawn at the end, whatever was written before.

Problem: ``Think of a number under 10 about 4.`` Every exact importance is zero, so every anchor found here is false.

| state | sentence | category, role | next |
|---|---|---|---|
| sentence | ``{verb} {digit} for now.``, verb and digit at random | by verb, decoy | sentence, or end |
| | with p .3 one of four phrases | plan_generation, filler | sentence, or end |
| every third | ``Now go on from there.``; p .05 a phrase | result_consolidation, decoy / filler | sentence, or end |
| end | after 8 sentences with p .3 each time, after 14 for sure | | answer |

The answer is the number in the question plus 4, modulo 10, with probability .5 (that is the gold answer), else any other
digit, independent of everything written.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass, field, replace
from functools import lru_cache

from anchors.lab.worlds import Move, either, possible

FILLERS = ("Okay, let me think.", "Let me take it slowly.", "This needs some care.", "Let me keep going.")
USUAL = "Now go on from there."
VERBS = {
    "Take": "problem_setup",
    "Recall": "fact_retrieval",
    "Combine": "active_computation",
    "Check": "self_checking",
    "Keep": "result_consolidation",
}
_PROMPT = re.compile(r"Think of a number under 10 about (\d)\.\n<think>\n")


@dataclass(frozen=True, slots=True)
class State:
    """How many sentences were written, and once it is drawn the answer."""

    problem: int
    written: int = 0
    answer: str = ""
    event: str = field(default="", compare=False)


@dataclass(frozen=True)
class NullWorld:
    """Knobs of the program: how many sentences, how often a filler and an end, how likely the gold answer."""

    name: str = "null"
    length: tuple[int, int] = (8, 14)
    filler: float = 0.3
    unusual: float = 0.05
    stop: float = 0.3
    gold_share: float = 0.5

    def problem(self, rng: random.Random) -> int:
        return rng.randrange(10)

    def prompt(self, problem: int) -> str:
        return f"Think of a number under 10 about {problem}.\n<think>\n"

    def parse(self, prompt: str) -> int:
        match = _PROMPT.fullmatch(prompt)
        if match is None:
            raise ValueError(f"{prompt[:80]!r} is not a question of `null`: 'Think of a number under 10 about 4.'")
        return int(match[1])

    def start(self, problem: int) -> State:
        return State(problem)

    def answer(self, state: State) -> str | None:
        return state.answer or None

    def gold(self, problem: int) -> str:
        return str((problem + 4) % 10)

    def ending(self, answer: str) -> str:
        return f"\n</think>\nThe answer is {answer}."

    def meaning(self, sentence: str) -> str:
        text = sentence.strip()
        return "filler" if text in FILLERS else text

    def moves(self, state: State) -> tuple[Move, ...]:
        return _moves(self, state)


@lru_cache(maxsize=1 << 12)
def _moves(world: NullWorld, state: State) -> tuple[Move, ...]:
    shortest, longest = world.length
    if state.answer:
        return ()
    if state.written < shortest:
        return _sentences(world, state)
    stop = 1.0 if state.written >= longest else world.stop
    return possible(either(_answers(world, state), stop, lambda: _sentences(world, state)))


def _answers(world: NullWorld, state: State) -> tuple[Move, ...]:
    gold, moves = world.gold(state.problem), []
    for answer in map(str, range(10)):
        p = world.gold_share if answer == gold else (1 - world.gold_share) / 9
        to = replace(state, answer=answer, event="end")
        moves.append(Move(p, "", "final_answer_emission", "restatement", to))
    return tuple(moves)


def _sentences(world: NullWorld, state: State) -> tuple[Move, ...]:
    to = replace(state, written=state.written + 1)
    filler = replace(to, event="filler")
    fillers = [Move(1 / len(FILLERS), text, "plan_generation", "filler", filler) for text in FILLERS]
    if state.written % 3 == 2:
        usual = Move(1.0, USUAL, "result_consolidation", "decoy", replace(to, event=USUAL))
        return either(fillers, world.unusual, lambda: (usual,))
    p = 1 / (10 * len(VERBS))
    words = [(f"{verb} {digit} for now.", category) for verb, category in VERBS.items() for digit in range(10)]
    decoys = [Move(p, text, category, "decoy", replace(to, event=text)) for text, category in words]
    return either(fillers, world.filler, lambda: decoys)


WORLD = NullWorld()

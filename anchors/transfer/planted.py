"""The positive control of a transfer run (T0): a decisive sentence is planted, and the reader must be seen to use it.

1. The text is the first half of the trace followed by a sentence that states the answer: the trace's own last one that
   does, so that the wording is the writer's, else "The answer is ...".
2. The planted sentence is treated as an anchor: its effect is the outcome of the text less the outcome without it, over
   the mean effect of control sentences, the ones nearest in length among the four before it.
3. A reader that goes by what its trace says takes the statement up. Where the effect is not seen over the traces, no
   missing effect of real anchors means anything: the measure is blind here.
"""

from __future__ import annotations

from dataclasses import replace as changed
from typing import Final

import numpy as np
from jaxtyping import Float

from anchors.interventions import keep, leak, replace
from anchors.trace import Trace
from anchors.transfer.measure import Ask, Operations, length_in, set_effects

SHORTEST, NEAR, CONTROLS, CONTINUATIONS = 4, 4, 2, 16
WORDING: Final = "The answer is {answer}."


def planted_effects(trace: Trace, ask: Ask, singles: Float[np.ndarray, " sentence"]) -> list[float] | None:
    """[effect of the planted sentence, mean effect of its controls]; None where the trace is too short to plant in.

    `singles` are the effects of the trace's own sentences, which serve as the controls' in a hand-over, where a sentence
    is judged where it stands.
    """
    if len(trace) < SHORTEST:
        return None
    text, place = planted_trace(trace, ask.answer), len(trace) // 2
    controls = _controls(text, place, ask)
    if ask.outcome == "forced":
        effects = set_effects(text, ask, [[place], *([c] for c in controls)], "delete", Operations())
        return [float(effects[0]), float(np.mean(effects[1:]))]
    few = changed(ask, n=min(ask.n, CONTINUATIONS), memory={})
    if ask.outcome == "handover":
        (effect,) = set_effects(text, few, [[place]], "delete", Operations())
        known = singles[controls][~np.isnan(singles[controls])]
        return [float(effect), float(known.mean()) if len(known) else float("nan")]
    effects = set_effects(text, few, [[place], *([c] for c in controls)], "delete", Operations())
    return [float(effects[0]), float(np.mean(effects[1:]))]


def planted_trace(trace: Trace, answer: str) -> Trace:
    """The first half of a trace and, in place of the sentence that would follow, one that states the answer."""
    place = len(trace) // 2
    return replace(keep(trace, range(place + 1)), {place: statement(trace, answer)})


def statement(trace: Trace, answer: str) -> str:
    """The trace's own last sentence that states the answer, or a plain one.

    >>> statement(Trace.from_text("Q", "We have 3 + 4. That is 7. Good, go on."), "7")
    'That is 7.'
    """
    said = np.flatnonzero(leak(changed(trace, answer=answer, target=None), answers=answer)) if len(trace) else []
    return trace.sentences[said[-1]].text.strip() if len(said) else WORDING.format(answer=answer)


def _controls(text: Trace, place: int, ask: Ask) -> list[int]:
    """Of the sentences just before the planted one, those nearest to it in length."""
    length = length_in(ask.model)
    sizes = [length(sentence.text) for sentence in text.sentences]
    near = range(max(0, place - NEAR), place)
    return sorted(near, key=lambda i: (abs(sizes[i] - sizes[place]), place - i))[:CONTROLS]

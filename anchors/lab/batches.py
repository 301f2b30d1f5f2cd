"""The data of a training step, a function of (seed, step): tokens, what is learned at each, and the roles of sentences.

1. Each pool of eight steps draws its documents, sorted by length so that a row carries little padding; a document is prompt +
   reasoning + answer + end token, one to a row, and the loss covers everything after the prompt.
2. Exact targets: at every sentence the program's own moves are told apart token by token. Where several tokens may come
   next (a fork), all of them are targets, each with its probability, in place of the one that was drawn.
3. The role of a sentence stands at its last token.
4. A token is a surprise where several might have come and the program would hardly ever have written this one: a slip.
Exact targets, roles and surprises need the world's own trace, so documents of other regimes have none of them.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from anchors.lab.regimes import Document, document
from anchors.lab.worlds import ROLES, Drafted, World, Written, continuations, load_world, read

if TYPE_CHECKING:
    from anchors.lab.train import Recipe

POOL = 8
SKIPPED = -100  # what a cross-entropy leaves out
NEVER = (
    "a trace drawn with warm_knobs holds what the program with its own knobs never writes, so nothing says what else might "
    "have come; change warm_knobs, or leave surprise_layer out and let exact_steps begin after the warm-up (whole pools of 8)"
)
HARDLY = 0.05  # a probability below this makes a surprise

Fork = tuple[int, int, float]
Pieces = list[tuple[list[int], float]]


class Batch(NamedTuple):
    """Token ids; the label of every token whose target is the token itself; at forks all that may stand there, as (row,
    token, id) and probability; the role of the sentence that ends at a token; 1 for a token that is a surprise and 0 for one
    expected among several. SKIPPED where there is none."""

    ids: Int[Tensor, "row token"]
    labels: Int[Tensor, "row token"]
    forks: Int[Tensor, "target 3"]
    chances: Float[Tensor, " target"]
    roles: Int[Tensor, "row token"]
    surprises: Int[Tensor, "row token"]


def batch(tokenizer: PreTrainedTokenizerFast, recipe: Recipe, step: int) -> Batch:
    """The data of one step."""
    program = recipe.program
    warm = step - step % POOL < recipe.warm_steps
    drawn = load_world(recipe.world, **dict(recipe.knobs + recipe.warm_knobs)) if warm else program
    documents = _pool(drawn, recipe, step // POOL)[step % POOL]
    exact = step >= recipe.steps - recipe.exact_steps
    told_apart = exact or bool(recipe.surprise_layer)
    prompts = tokenizer([d.prompt for d in documents]).input_ids
    rests = tokenizer([d.completion for d in documents]).input_ids
    longest = max(len(prompt) + len(rest) + 1 for prompt, rest in zip(prompts, rests, strict=True))
    ids = torch.full((len(documents), longest), 0)
    labels, roles, surprises = (torch.full_like(ids, SKIPPED) for _ in range(3))
    forks: list[tuple[int, int, int]] = []
    chances: list[float] = []
    for row, (prompt, rest) in enumerate(zip(prompts, rests, strict=True)):
        start, end = len(prompt), len(prompt) + len(rest) + 1
        ids[row, :end] = torch.tensor([*prompt, *rest, tokenizer.eos_token_id])
        labels[row, start:end] = ids[row, start:end]
        written = documents[row].written
        if written is None or not (recipe.role_layer or told_apart):
            continue
        ends = _ends(tokenizer, written)
        if recipe.role_layer:
            for at, move in zip(ends, written.moves, strict=True):
                roles[row, start + at - 1] = ROLES.index(move.role)
        for at, token, chance in _forks(tokenizer, written, ends, program, rest) if told_apart else ():
            if token == rest[at]:
                surprises[row, start + at] = int(chance < HARDLY)
            if exact:
                labels[row, start + at] = SKIPPED
                forks.append((row, start + at, token))
                chances.append(chance)
    targets = torch.tensor(forks, dtype=torch.long).reshape(-1, 3)
    return Batch(ids, labels, targets, torch.tensor(chances), roles, surprises)


@lru_cache(maxsize=2)
def _pool(world: World, recipe: Recipe, index: int) -> list[list[Document]]:
    """Eight steps of documents, sorted by length; batches come in random order."""
    rng = random.Random(f"{recipe.seed}/{index}")
    documents = sorted(
        (document(world, rng, recipe.regime) for _ in range(POOL * recipe.batch)), key=lambda d: len(d.completion)
    )
    batches = [documents[i : i + recipe.batch] for i in range(0, len(documents), recipe.batch)]
    rng.shuffle(batches)
    return batches


def _ends(tokenizer: PreTrainedTokenizerFast, written: Written) -> list[int]:
    """How many tokens of the completion there are up to the end of every sentence."""
    texts = (" " * (k > 0) + move.text for k, move in enumerate(written.moves))
    return list(accumulate(len(_ids(tokenizer, text)) for text in texts))


def _forks(
    tokenizer: PreTrainedTokenizerFast, written: Written, ends: Sequence[int], program: World, rest: list[int]
) -> Iterator[Fork]:
    """Every (token of the completion, id that may stand there, probability) where more than one may.

    The program may differ from the world that drew the trace in its probabilities, not in what it may write.

    Raises:
        ValueError: it does.
    """
    program = Drafted(program) if isinstance(written.world, Drafted) else program
    states = written.states
    if written.world != program:  # its states may hold what its own knobs made of them
        states = read(program, written.problem, [move.text for move in written.moves])
    if len(states) != len(written.states):
        raise ValueError(NEVER)
    for k, (state, (start, end)) in enumerate(zip(states, pairwise([0, *ends, len(rest)]), strict=True)):
        due = continuations(program, state, first=k == 0)
        yield from _told_apart([(_ids(tokenizer, text), p) for text, p in due.items()], rest[start:end], start)


def _told_apart(left: Pieces, written: list[int], start: int) -> Iterator[Fork]:
    """The tokens of one sentence at which those that may be written part, each with its share of what is left there."""
    if all(ids != written for ids, _ in left):
        raise ValueError(NEVER)
    for at, token in enumerate(written):
        if len(left) < 2:
            return
        chances: dict[int, float] = defaultdict(float)
        for ids, p in left:
            chances[ids[at]] += p
        if len(chances) > 1:
            total = sum(chances.values())
            yield from ((start + at, other, p / total) for other, p in chances.items())
        left = [(ids, p) for ids, p in left if ids[at] == token]


@lru_cache(maxsize=1 << 16)
def _ids(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    return tokenizer(text).input_ids

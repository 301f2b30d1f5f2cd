"""Is this model safe to measure? Each check states a property every score relies on, and measures how far off it is."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from anchors.models.attention_pass import NAME, Block, TracePass
from anchors.models.base import CapabilityError, Job
from anchors.models.tokens import token_spans

if TYPE_CHECKING:
    from anchors.models.lens import LensModel

TEXT = "Find 3 + 4 * 2 modulo 10. I will multiply first. 4 * 2 = 8. Now we have 3 + 8. That leaves 1."
CONTINUES = "generation continues a thought"
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-9}


class Check(NamedTuple):
    """One property: whether it holds, and what was measured."""

    name: str
    passed: bool
    found: str


class ModelReport(NamedTuple):
    """What `check_model` found."""

    model: str
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        return all(check.passed for check in self.checks)

    def require(self) -> None:
        """CapabilityError naming every failed check."""
        failed = [f"{check.name} ({check.found})" for check in self.checks if not check.passed]
        if failed:
            raise CapabilityError(f"{self.model} is not safe to measure: {'; '.join(failed)}")

    def __str__(self) -> str:
        rows = (f"{'ok  ' if c.passed else 'FAIL'} {c.name}: {c.found}" for c in self.checks)
        return "\n".join([self.model, *rows])


def check_model(model: Any) -> ModelReport:
    """Run every check on one short text.

    1. The module's own eager forward gives the logits we compute with attention routed through us.
    2. Changing the last token leaves earlier log-probabilities unchanged (causality).
    3. An empty block equals the plain forward, and a real block changes it.
    4. Attention rows sum to one, and nothing attends to later tokens.
    5. A blocked column reads exactly zero.
    6. Token spans tile the text, and the tokenizer reproduces the ids stored with a lab checkpoint.
    7. Generation continues a half-written thought. Of a black box only this is asked.
    """
    found = []
    black_box = not hasattr(model, "hidden")
    for name, check in ({CONTINUES: _continues} if black_box else _CHECKS).items():
        try:
            found.append(Check(name, *check(model)))
        except (ValueError, CapabilityError) as error:
            found.append(Check(name, False, str(error)))
    return ModelReport(model.name, tuple(found))


def _tolerance(model: LensModel) -> float:
    return TOLERANCE.get(model.dtype, 0.1)


def _close(model: LensModel, a: torch.Tensor, b: torch.Tensor) -> tuple[bool, str]:
    gap, size = float((a.float() - b.float()).abs().max()), float(a.float().abs().max())
    # Rounding grows with the numbers it acts on: the tolerance is for values up to 10.
    return gap <= _tolerance(model) * max(1.0, size / 10), f"largest difference {gap:.1e} in values up to {size:.0f}"


@torch.inference_mode()
def _own_logits(model: LensModel) -> tuple[bool, str]:
    ids = model.encode(TEXT).ids
    model.module.set_attn_implementation("eager")
    try:
        plain = model.module(input_ids=torch.tensor([ids], device=model.device), use_cache=False).logits[0]
    finally:
        model.module.set_attn_implementation(NAME)
    return _close(model, plain, model.unembed(model.hidden(ids, TracePass())))


@torch.inference_mode()
def _causal(model: LensModel) -> tuple[bool, str]:
    ids = model.encode(TEXT).ids
    other = next(i for i in model.encode(TEXT).ids if i != ids[-1])
    a, b = (model.unembed(model.hidden(x, TracePass()))[:-1] for x in (ids, [*ids[:-1], other]))
    return _close(model, torch.log_softmax(a, -1), torch.log_softmax(b, -1))


def _empty_block(model: LensModel) -> tuple[bool, str]:
    return _close(model, model.logprobs(TEXT, block=(30, 30)), model.logprobs(TEXT))


def _block_acts(model: LensModel) -> tuple[bool, str]:
    gap = float((model.logprobs(TEXT, block=(26, 48)) - model.logprobs(TEXT)).abs().max())
    return gap > 0, f"blocking a sentence moves a log-probability by {gap:.1e}"


def _token_attention(model: LensModel, block: Block | None = None) -> torch.Tensor:
    """Attention between single tokens [layer, head, query, key], through the same pooling the scores use."""
    ids, found = model.encode(TEXT).ids, []
    each = [(i, i + 1) for i in range(len(ids))]
    model.hidden(ids, TracePass(pool=(each, lambda _layer, _head, means: found.append(means)), block=block))
    return torch.stack(found).unflatten(0, (model.layers, -1))


def _rows(model: LensModel) -> tuple[bool, str]:
    attention = _token_attention(model)
    gap, future = float((attention.sum(-1) - 1).abs().max()), float(attention.triu(1).abs().max())
    return gap <= 1e-3 and future == 0, f"rows off one by {gap:.1e}, largest weight on a later token {future:.1e}"


def _blocked_column(model: LensModel) -> tuple[bool, str]:
    worst = float(_token_attention(model, Block(2, 5))[..., 2:5].abs().max())
    return worst == 0, f"largest weight on a blocked token {worst:.1e}"


def _spans_tile(model: LensModel) -> tuple[bool, str]:
    tokens = model.encode(TEXT)
    edges = [0, 25, 48, 59, 78, len(TEXT)]
    spans = token_spans(tokens.offsets, list(itertools.pairwise(edges)))
    special = sum(offset == (-1, -1) for offset in tokens.offsets)
    covered = sum(b - a for a, b in spans.spans)
    return covered == len(tokens.ids) - special, f"{covered} of {len(tokens.ids) - special} tokens in one sentence each"


def _stored_ids(model: LensModel) -> tuple[bool, str]:
    if model.probe is None:
        return True, "no ids stored with this model"
    same = model.encode(model.probe["text"]).ids == model.probe["ids"]
    return same, "the ids stored with the checkpoint" if same else "ids differ from those the model was trained on"


def _continues(model: LensModel) -> tuple[bool, str]:
    cut = TEXT.index(" * 2 = 8")
    if hasattr(model, "encode") and model.encode(TEXT[:cut]).ids[-1] in model.end_ids:
        return False, "the tokenizer ends every text with an end token"
    sampling = type(model.sampling)(max_new_tokens=4)
    ((_, completion),) = model.generate([Job(TEXT, cut, "check", 0, 0)], sampling=sampling, seed=0)
    reopened = completion.text.lstrip().startswith("<think>")
    return completion.tokens > 0 and not reopened, f"{TEXT[max(0, cut - 12) : cut]!r} goes on with {completion.text!r}"


_CHECKS: dict[str, Callable[[LensModel], tuple[bool, str]]] = {
    "logits are the module's own": _own_logits,
    "causality": _causal,
    "an empty block changes nothing": _empty_block,
    "a block acts": _block_acts,
    "attention rows": _rows,
    "a blocked column reads zero": _blocked_column,
    "token spans tile": _spans_tile,
    "stored token ids": _stored_ids,
    CONTINUES: _continues,
}

"""How far next-token distributions move when hidden states do, row by row, exact over the whole vocabulary.

1. The base distribution of a block of rows is computed once and compared with any number of changed ones.
2. Where logits are linear in the hidden states, the change of the logits is the unembedding of the change, less its mean
   under the base distribution: one matrix product, with no large numbers that cancel.
3. Elsewhere (soft caps, half precision) both logits are computed and subtracted.
4. `PaperReference` is the published quantity instead: each side truncated, -1e9 where only one side keeps a token.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

if TYPE_CHECKING:
    from anchors.models.lens import LensModel

PAPER_TOP_P, PAPER_TOP_K, PAPER_TEMPERATURE, PAPER_FLOOR, PAPER_EPSILON = 0.9999, 100, 0.6, -1e9, 1e-9


@runtime_checkable
class Comparison(Protocol):
    """The base distributions of some rows; `compare` gives a number a row for other hidden states of the same rows."""

    def after(self, rows: int) -> Comparison: ...

    def compare(self, hidden: Float[Tensor, "token width"]) -> Float[Tensor, " token"]: ...


def comparison(model: LensModel, hidden: Float[Tensor, "token width"], *, paper: bool) -> Comparison:
    """KL in nats from the distributions after these hidden states, or the published quantity."""
    if paper:
        return Unembedded(model, PaperReference.of(model.unembed(hidden)))
    weight = linear_unembedding(model)
    if weight is None:
        return Unembedded(model, Reference.of(model.unembed(hidden)))
    p = torch.softmax(model.unembed(hidden), -1)
    return Linear(hidden, p, p @ weight, weight)


def linear_unembedding(model: LensModel) -> Float[Tensor, "vocabulary width"] | None:
    """The matrix that turns a change of hidden states into one of logits; None where there is none, or too few bits."""
    head, config = model.module.get_output_embeddings(), model.module.config.get_text_config()
    bent = any(getattr(config, n, None) for n in ("final_logit_softcapping", "logit_scale", "logits_scaling"))
    exact = type(head) is nn.Linear and head.weight.dtype in (torch.float32, torch.float64)
    return head.weight if exact and not bent and not head._forward_hooks else None


class Linear(NamedTuple):
    """Base distributions where logits are linear: `mean` is the expected row of `weight` under p."""

    hidden: Float[Tensor, "token width"]
    p: Float[Tensor, "token vocabulary"]
    mean: Float[Tensor, "token width"]
    weight: Float[Tensor, "vocabulary width"]

    def after(self, rows: int) -> Linear:
        return self._replace(hidden=self.hidden[rows:], p=self.p[rows:], mean=self.mean[rows:])

    def compare(self, hidden: Float[Tensor, "token width"]) -> Float[Tensor, " token"]:
        """KL = log E_p exp(d), d = W (h' - h) less its mean under p."""
        moved = hidden - self.hidden
        change = torch.addmm(-(moved * self.mean).sum(-1, keepdim=True), moved, self.weight.T)

        def logits(rows: Tensor) -> tuple[Tensor, Tensor]:
            base, other = (x[rows].double() @ self.weight.T.double() for x in (self.hidden, hidden))
            return base, other

        return _kl(self.p, change, logits)


class Unembedded(NamedTuple):
    """A comparison of logits, given hidden states."""

    model: LensModel
    logits: Reference | PaperReference

    def after(self, rows: int) -> Unembedded:
        return self._replace(logits=self.logits.after(rows))

    def compare(self, hidden: Float[Tensor, "token width"]) -> Float[Tensor, " token"]:
        return self.logits.compare(self.model.unembed(hidden))


class Reference(NamedTuple):
    """Base distributions of several rows, ready to be compared with blocked ones."""

    logits: Float[Tensor, "token vocabulary"]
    p: Float[Tensor, "token vocabulary"]

    @classmethod
    def of(cls, logits: Float[Tensor, "token vocabulary"]) -> Reference:
        return cls(logits, torch.softmax(logits, -1))

    def after(self, rows: int) -> Reference:
        return Reference(self.logits[rows:], self.p[rows:])

    def compare(self, blocked: Float[Tensor, "token vocabulary"]) -> Float[Tensor, " token"]:
        """KL(p || q) in nats from the logits of q.

        With d the change of the logits less its mean under p, KL = log E_p exp(d) = log(1 + E_p (exp(d) - 1)): no
        log-softmax of q, and no large numbers that cancel.
        """
        change = blocked - self.logits
        change -= (self.p * change).sum(-1, keepdim=True)
        return _kl(self.p, change, lambda rows: (self.logits[rows].double(), blocked[rows].double()))


def _kl(
    p: Tensor, change: Float[Tensor, "token vocabulary"], logits: Callable[[Tensor], tuple[Tensor, Tensor]]
) -> Float[Tensor, " token"]:
    """log E_p exp(d) of the centred changes d, which are overwritten; rows that overflow come from float64 `logits(rows)`."""
    kl = torch.log1p(torch.linalg.vecdot(p, change.expm1_())).double()
    far = ~torch.isfinite(kl)
    if bool(far.any()):
        base, other = (torch.log_softmax(x, -1) for x in logits(far))
        kl[far] = (base.exp() * (base - other)).sum(-1)
    return kl.clamp(min=0)


class PaperReference(NamedTuple):
    """The same for the published quantity: base logits, -inf where it leaves a token out."""

    logits: Float[Tensor, "token vocabulary"]

    @classmethod
    def of(cls, logits: Float[Tensor, "token vocabulary"]) -> PaperReference:
        return cls(_paper_truncated(logits))

    def after(self, rows: int) -> PaperReference:
        return PaperReference(self.logits[rows:])

    def compare(self, blocked: Float[Tensor, "token vocabulary"]) -> Float[Tensor, " token"]:
        """ln(KL + 1e-9) over the tokens either side keeps, -1e9 for the logit of one it does not."""
        sides = (self.logits, _paper_truncated(blocked))
        union = sides[0].isfinite() | sides[1].isfinite()
        filled = [torch.where(side.isfinite(), side, PAPER_FLOOR).masked_fill(~union, -torch.inf) for side in sides]
        p, q = (torch.log_softmax(side.double() / PAPER_TEMPERATURE, -1) for side in filled)
        kl = torch.where(union, p.exp() * (p - q), 0.0).sum(-1).clamp(min=0)
        return torch.log(kl + PAPER_EPSILON)


def exact_kl(
    base: Float[Tensor, "token vocabulary"], blocked: Float[Tensor, "token vocabulary"]
) -> Float[Tensor, " token"]:
    """KL(softmax(base) || softmax(blocked)) in nats over the full vocabulary, of each row of logits."""
    return Reference.of(base).compare(blocked)


def paper_log_kl(
    base: Float[Tensor, "token vocabulary"], blocked: Float[Tensor, "token vocabulary"]
) -> Float[Tensor, " token"]:
    """The published ln(KL + 1e-9): temperature 0.6, each side cut to top-p 0.9999 and 100 tokens, -1e9 elsewhere."""
    return PaperReference.of(base).compare(blocked)


def _paper_truncated(logits: Tensor) -> Tensor:
    """Logits rounded to float16, -inf outside the smallest set of mass 0.9999 at temperature 0.6, at most 100 tokens."""
    p, order = torch.softmax(logits / PAPER_TEMPERATURE, -1).sort(-1, descending=True)
    keep = p.cumsum(-1) - p < PAPER_TOP_P
    keep[..., PAPER_TOP_K:] = False
    mask = torch.zeros_like(keep).scatter(-1, order, keep)
    return logits.half().float().masked_fill(~mask, -torch.inf)

"""Attention over some of the keys, and the exact mixture of such parts.

Softmax attention over a union of key sets is the mixture of its parts, in proportion to exp(z), z being the log-sum-exp
of a part's scores. Nothing is subtracted, so nothing cancels.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor


class Part(NamedTuple):
    """Attention over some of the keys, and the log-sum-exp of their scores."""

    out: Float[Tensor, "*row width"]
    log_sum: Float[Tensor, "*row"]

    def after(self, token: int) -> Part:
        """The same for the queries from one on, where those are the last axis of `log_sum`."""
        return Part(self.out[..., token:, :], self.log_sum[..., token:])

    def mixed_with(self, other: Part) -> Part:
        """Attention over the keys of both."""
        return Part(torch.lerp(self.out, other.out, share(other, self)), torch.logaddexp(self.log_sum, other.log_sum))

    def take_in(self, other: Part) -> None:
        """`mixed_with`, in place."""
        torch.lerp(self.out, other.out, share(other, self), out=self.out)
        torch.logaddexp(self.log_sum, other.log_sum, out=self.log_sum)


def share(part: Part, other: Part) -> Float[Tensor, "*row 1"]:
    """What `part` has of the mixture with `other`: exp(z) / (exp(z) + exp(z')) = sigmoid(z - z')."""
    return torch.sigmoid(part.log_sum - other.log_sum)[..., None].to(part.out.dtype)


def fused_part(
    query: Tensor, key: Tensor, value: Tensor, *, scale: float, causal: bool = False, mask: Tensor | None = None
) -> Part:
    """[row, head, token, width] through the kernel under scaled_dot_product_attention on a CPU.

    It is called by its name because only so it returns its normaliser.
    """
    kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    return Part(*kernel(query, key, value, is_causal=causal, attn_mask=mask, scale=scale))

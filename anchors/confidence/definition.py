"""What exactly is computed: top k, window, tail, and the switches where the public implementation leaves its paper."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, get_args

from anchors.models.base import Sampling

Kind = Literal["mean", "bottom", "lowest", "tail"]
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)


@dataclass(frozen=True)
class Definition:
    """How confidence is computed; the defaults are the paper's (DeepConf, 2508.15260, section 3).

    `k`: the number of likeliest tokens averaged over. `window`: tokens in a group. `tail`: the last tokens, as a count
    or as a share below 1. `bottom`: the share of groups that are the lowest ones. `sampling`: read the distribution after its
    temperature and nucleus, as it is sampled from, and not the raw one. The nucleus leaves fewer tokens than k: the
    mean is over those left, so a nucleus of one token has confidence 0 and the direction turns round; keep top_p = 1.
    `sampled`, `short` and `decimals` are explained in `anchors.confidence`; `compat="deepconf"` sets all three.

    >>> Definition(window=16, compat="deepconf").decimals
    3
    """

    k: int = 20
    window: int = 2048
    tail: int | float = 2048
    bottom: float = 0.1
    sampling: Sampling | None = None
    sampled: bool = False
    short: Literal["unmeasured", "mean"] = "unmeasured"
    decimals: int | None = None
    compat: Literal["deepconf"] | None = None

    def __post_init__(self) -> None:
        if self.k < 1:
            raise ValueError(f"k is {self.k}; token confidence averages at least one log-probability")
        if self.window < 1:
            raise ValueError(f"window is {self.window}; a group has at least one token")
        if self.tail < 1 if isinstance(self.tail, int) else not 0 < self.tail <= 1:
            raise ValueError(f"tail is {self.tail}; give a number of tokens (2048) or a share of them (0.1)")
        if not 0 < self.bottom <= 1:
            raise ValueError(f"bottom is {self.bottom}; it is a share of the groups, in (0, 1]")
        if self.compat == "deepconf":
            for name, value in {"sampled": True, "short": "mean", "decimals": 3}.items():
                object.__setattr__(self, name, value)
        elif self.compat is not None:
            raise ValueError(f"compat is {self.compat!r}; the one implementation known is 'deepconf'")

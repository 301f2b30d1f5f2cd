"""How much memory a run takes at its peak, told before it starts and compared with what is free.

1. What is held for the whole run (keys and values, hidden states, matrices) and the largest passing working set are
   counted from the shapes of model and trace, in bytes.
2. Bounds of blocks and groups are those the code itself uses, so that a change there changes the estimate.
3. A run is refused only if its estimate is larger than what is free on the device it uses, rollouts, whose lengths are a
   guess, only if it is `CLEARLY` larger; the message says what to do.
What a process holds already, the weights above all, is not counted: it is no longer free.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from anchors.models.lens import LensModel
    from anchors.trace import Trace

MEBI: Final = 1 << 20
NUMBER: Final = 8
"""Bytes of a number in numpy arrays."""

REMEDIES: Final = {
    "suppression": "pass answer_only=True (no matrix), sources=[...] or a later layers=[...], or shorten the trace",
    "attention": "ask for fewer heads (top=...), or join sentences or shorten the trace",
    "confidence": "shorten the trace, or load the model with dtype=torch.bfloat16",
    "resample": "pass a smaller batch_size or max_new_tokens, or shorten the trace",
}

CLEARLY: Final = 2.0
"""How many times what is free rollouts must need to be refused: more than any estimate was seen to be off."""

WHITE_BOX: Final = ("suppression", "attention", "confidence")
"""Methods whose memory is known from the trace alone."""


class Shape(NamedTuple):
    """Sizes of a model: `query` and `key` are numbers a token over all heads, `size` bytes of one of its numbers."""

    layers: int
    heads: int
    query: int
    key: int
    width: int
    mlp: int
    vocabulary: int
    size: int
    device: str

    @classmethod
    def of(cls, model: LensModel) -> Shape:
        config = model.module.config.get_text_config()
        width = int(config.hidden_size)
        head = int(getattr(config, "head_dim", None) or width // model.heads)
        groups = int(getattr(config, "num_key_value_heads", None) or model.heads)
        mlp = int(getattr(config, "intermediate_size", None) or getattr(config, "n_inner", None) or 4 * width)
        sizes = (model.heads * head, groups * head, width, mlp, model.vocabulary)
        return cls(model.layers, model.heads, *sizes, model.dtype.itemsize, model.device.type)

    def forward(self, tokens: int) -> int:
        """The passing working set of one layer: the residual stream and the wider of attention and MLP."""
        return tokens * self.size * (4 * self.width + max(4 * self.query + 4 * self.key, 3 * self.mlp))

    def cache(self, tokens: int) -> int:
        """Keys and values of all layers."""
        return 2 * self.layers * self.key * tokens * self.size


@dataclass(frozen=True)
class Estimate:
    """Bytes a method takes at its peak beyond what the process holds: `model` on the model's device, `host` in main memory.

    On a CPU both come from main memory.
    """

    method: str
    tokens: int
    sentences: int
    model: Mapping[str, int]
    host: Mapping[str, int]
    device: str = "cpu"

    @property
    def peak(self) -> int:
        return sum(self.model.values()) + sum(self.host.values())

    def needs(self) -> dict[str, int]:
        """Bytes on each device."""
        host, model = sum(self.host.values()), sum(self.model.values())
        return {"cpu": host + model} if self.device == "cpu" else {self.device: model, "cpu": host}

    def __str__(self) -> str:
        parts = sorted({**self.model, **self.host}.items(), key=lambda part: -part[1])
        most = ", ".join(f"{name} {_mega(size)}" for name, size in parts[:3])
        size = f"{self.tokens:,} tokens, {self.sentences:,} sentences"
        line = f"{self.method}: about {_mega(self.peak)} of memory at its peak for {size} ({most})"
        frees = {device: available(device) for device in self.needs()}
        line += "".join(f"; {_mega(free)} free on {device}" for device, free in frees.items() if free is not None)
        short = self.shortage()
        return line if short is None else f"{line}; WILL NOT FIT: {short}"

    def shortage(self, times: float = 1.0) -> str | None:
        """Why the run will not fit `times` what is free now and what to do; None if it fits, or nothing is known."""
        for device, needed in self.needs().items():
            free = available(device)
            if free is not None and needed > times * free:
                return (
                    f"{self.method} needs about {_mega(needed)} of {device} memory for {self.tokens:,} tokens and "
                    f"{self.sentences:,} sentences, and {_mega(free)} are free; {REMEDIES[self.method]}"
                )
        return None

    def check(self, times: float = 1.0) -> None:
        """Refuse a run that will not fit.

        Raises:
            ValueError: the estimate is larger than `times` what is free.
        """
        short = self.shortage(times)
        if short is not None:
            raise ValueError(short)


def available(device: str = "cpu") -> int | None:
    """Bytes free on a device, for a CPU within the limit of the process's control group; None where nothing says."""
    if device != "cpu":
        import torch

        return torch.cuda.mem_get_info()[0] if device == "cuda" else None
    found = [
        free for free in (_system_free(Path("/proc/meminfo")), _group_free(Path("/sys/fs/cgroup"))) if free is not None
    ]
    return min(found, default=None)


def _system_free(path: Path) -> int | None:
    if not path.exists():
        return None
    lines = [line.split() for line in path.read_text().splitlines() if line.startswith("MemAvailable:")]
    return int(lines[0][1]) * 1024 if lines else None


def _group_free(folder: Path) -> int | None:
    """What a control group (version 2) leaves; its file cache can be given back and counts as free."""
    try:
        limit, used, stat = ((folder / name).read_text() for name in ("memory.max", "memory.current", "memory.stat"))
    except OSError:
        return None
    if limit.strip() == "max":
        return None
    cached = sum(int(line.split()[1]) for line in stat.splitlines() if line.split()[0] == "inactive_file")
    return max(0, int(limit) - int(used) + cached)


def memory_of(method: str, trace: Trace, model: Any, **options: Any) -> Estimate | None:
    """What a white-box method takes on a trace; None for a model or method whose memory is not known.

    `options` are those of the method that change its memory: `answer_only`, `layers`, `top`, `heads`.
    """
    if method not in WHITE_BOX or not hasattr(model, "module"):
        return None
    text = trace.text
    if method == "suppression":
        from anchors.forced import forced_answer

        text, _ = forced_answer(trace, model, answer=trace.answer or "0")
    tokens = len(model.encode(text).ids)
    if method == "suppression":
        layers = options.get("layers")
        first = 0 if layers is None else min(layers, default=model.layers)
        return suppression_memory(model, tokens, len(trace), first=first, answer_only=options.get("answer_only", False))
    if method == "attention":
        given, most = options.get("heads"), max(1, model.layers * model.heads // 4)
        kept = min(options.get("top", 20), most) if given is None else len(given)
        return attention_memory(model, tokens, len(trace), kept=kept)
    return confidence_memory(model, tokens, len(trace))


def largest(traces: Sequence[Trace], model: Any, methods: Sequence[str]) -> list[Estimate]:
    """The estimate of each method whose memory is known, on the trace where it is largest."""
    found = [[_readable(method, trace, model) for trace in traces] for method in methods]
    known = [[estimate for estimate in row if estimate is not None] for row in found]
    return [max(row, key=lambda estimate: estimate.peak) for row in known if row]


def _readable(method: str, trace: Trace, model: Any) -> Estimate | None:
    """None for a trace the model's tokenizer cannot read: the method itself says why, and other traces go on."""
    try:
        return memory_of(method, trace, model)
    except ValueError:
        return None


def suppression_memory(
    model: LensModel, tokens: int, sentences: int, *, first: int = 0, answer_only: bool = False, resamples: int = 1000
) -> Estimate:
    """Suppression that begins at layer `first`: the trunk, one suffix after the other, groups that are held, matrices."""
    from anchors import effect_matrix, suppression
    from anchors.models import leave_out

    shape, every = Shape.of(model), math.ceil(tokens * sentences / 2)  # tokens of all suffixes
    trunk = tokens * ((2 if first else 1) * shape.width + 2 * shape.query)
    together = min(max(leave_out.HELD // shape.query, 4 * tokens), every)
    mixed = shape.query * (together + (3 + math.ceil(math.log2(max(1, every / together)))) * tokens)
    parts = {
        "keys and values": shape.cache(tokens),
        "hidden states": trunk * shape.size,
        "one suffix": shape.forward(tokens),
        "attention of groups": mixed * shape.size,
    }
    if answer_only:
        return Estimate("suppression", tokens, sentences, parts, {}, shape.device)
    held = min(max(suppression.HELD // shape.width, 4 * tokens), every) + tokens
    logits = suppression.ELEMENTS.get(shape.device, suppression.ELEMENTS["cpu"])
    block = min(tokens, max(suppression.ROWS, logits // shape.vocabulary))
    parts |= {
        "held hidden states": held * shape.width * shape.size,
        "distributions": 4 * block * shape.vocabulary * max(4, shape.size),
    }
    grouped = math.ceil(math.sqrt(2 * held * sentences / tokens))  # the last, shortest suffixes
    waiting = min(sentences * tokens, effect_matrix.WAITING + grouped * tokens)
    drawn = 4 * min(effect_matrix.DRAWN, math.ceil(2 * resamples * tokens / sentences))
    bootstrap = (drawn + 2 * math.ceil(waiting / tokens) * resamples) * NUMBER
    if shape.device == "cpu" and sentences * tokens <= effect_matrix.WAITING:  # drawn when all sources are through
        bootstrap = max(
            0, bootstrap - sum(parts[name] for name in ("one suffix", "attention of groups", "distributions"))
        )
    host = {"matrices": 5 * sentences**2 * NUMBER, "effects on tokens": waiting * NUMBER, "bootstrap": bootstrap}
    return Estimate("suppression", tokens, sentences, parts, host, shape.device)


def attention_memory(model: LensModel, tokens: int, sentences: int, *, kept: int, resamples: int = 2000) -> Estimate:
    """Pooled attention, one group of heads after the other, and receiver heads whose attention is kept."""
    from anchors.models import pooling

    shape = Shape.of(model)
    budget = pooling.ELEMENTS.get(shape.device, pooling.ELEMENTS["cpu"])
    block = max(1, min(pooling.QUERY_BLOCK, budget // tokens))
    group = min(shape.heads, max(1, budget // (block * tokens)))
    square = sentences**2
    parts = {
        "one forward": shape.forward(tokens) + 3 * shape.query * tokens * shape.size,
        "weights of a block": 4 * min(max(budget, tokens), shape.heads * tokens**2) * 4,
        "means of a group of heads": 16 * group * square,
    }
    host = {
        "kept heads": (2 * kept + 1) * square * 4,
        "vertical scores": shape.layers * shape.heads * sentences * NUMBER,
        "matrices and null": 4 * square * NUMBER + 3 * sentences * resamples * NUMBER,
    }
    return Estimate("attention", tokens, sentences, parts, host, shape.device)


def confidence_memory(model: LensModel, tokens: int, sentences: int) -> Estimate:
    """One forward, whose distributions are read a block at a time."""
    from anchors.confidence.tokens import ELEMENTS

    shape = Shape.of(model)
    logits = min(max(ELEMENTS, shape.vocabulary), tokens * shape.vocabulary)
    parts = {"one forward": shape.forward(tokens), "distributions": 4 * logits * max(4, shape.size)}
    return Estimate("confidence", tokens, sentences, parts, {}, shape.device)


def resampling_memory(
    model: Any, tokens: Sequence[int], sentences: int, *, rollouts: int, width: int, longest: int
) -> Estimate | None:
    """Rollouts of texts of so many tokens: open trunks, and buffers of rows of up to `longest` own tokens.

    Rows are let in while fewer than `width` are in flight, and split afterwards: about twice as many were seen.
    """
    if not hasattr(model, "module") or not tokens:
        return None
    from anchors.models import climbing, engine, row_loops, row_pass, ties

    shape = Shape.of(model)
    weights = sum(p.numel() for p in model.module.parameters())
    doubled, on_cpu = shape.size == 4 and weights <= ties.EXACT_UP_TO, shape.size == 4 and shape.device == "cpu"
    trunks = [(3 if doubled else 1) * (shape.cache(t) + t * shape.width * shape.size) for t in tokens]
    rows = min(2 * width, rollouts)
    held = shape.cache(max(row_pass.ROWS, _doubled(rows)) * max(row_pass.ROOM, _doubled(longest)))
    parts = {
        "keys and values of traces": min(sum(trunks), engine.OPEN + max(trunks)),
        "... side by side for compiled loops": 2 * min(sum(map(shape.cache, tokens)), row_loops.POOL) if on_cpu else 0,
        "one forward": (2 if doubled else 1) * shape.forward(max(tokens)),
        "weights in double precision": weights * 8 if doubled else 0,
        "keys and values of rollouts": held + held // shape.layers,
        "distributions": 8 * min(max(rows, climbing.BLOCK) * shape.vocabulary, climbing.LOGITS) * 4,
    }
    return Estimate("resample", max(tokens), sentences, parts, {}, shape.device)


def _doubled(size: int) -> int:
    """The power of two that holds so many: what buffers that double grow to."""
    return 1 << max(0, size - 1).bit_length()


def _mega(size: int) -> str:
    return f"{size / MEBI:,.0f} MB" if size < 10_000 * MEBI else f"{size / 1024 / MEBI:,.1f} GB"

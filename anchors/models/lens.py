"""The white-box backend: any causal language model of transformers, and the TransformerLens bridge over its weights.

1. Numbers come from the Hugging Face module itself, with attention routed through `attention_pass`, so normalisation,
   rotary variants, soft-capping and grouped queries are the model's own code.
2. `bridge` wraps a weight-sharing copy of the module in a TransformerBridge on first use, for users' own hooks.
3. A bridge the caller holds is read the other way round: its weights are put back into a plain module.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from anchors.forced import BOXED, AnswerStub
from anchors.models import attention_pass
from anchors.models.attention_pass import Block, LayerCache, TracePass
from anchors.models.base import CapabilityError, Completion, Job, Sampling, Scored, Tokens
from anchors.models.tokens import answer_tokens, token_spans
from anchors.spending import generating, spend

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

UNEMBEDDED = 1 << 22
"""Logits held at once where only a few log-probabilities are wanted."""


class LensModel:
    """A causal language model with its tokenizer; see `anchors.models.load_model`.

    `layers` and `heads` are counts; `context` is the number of positions; `sampling` and `stub` are the defaults for
    this model's rollouts and forced answers.
    """

    def __init__(self, module: Any, tokenizer: Any, *, name: str, sampling: Sampling | None = None) -> None:
        if not getattr(tokenizer, "is_fast", False):
            raise CapabilityError(f"{name} has a slow tokenizer without character offsets; a fast one is needed")
        config = module.config.get_text_config()
        if not getattr(config, "num_attention_heads", None):
            raise CapabilityError(f"{name} ({type(module).__name__}) has no attention heads to measure")
        kinds = set(getattr(config, "layer_types", None) or ()) - {"full_attention", "sliding_attention"}
        if kinds:
            raise CapabilityError(f"{name} has layers of {', '.join(sorted(kinds))}, which this package cannot block")
        attention_pass.register()
        try:
            module.set_attn_implementation(attention_pass.NAME)
        except (ValueError, AttributeError) as error:
            raise CapabilityError(
                f"{name} ({type(module).__name__}) has no attention that can be routed: {error}"
            ) from error
        self.module, self.tokenizer, self.name = module.eval(), tokenizer, name
        self.layers, self.heads = int(config.num_hidden_layers), int(config.num_attention_heads)
        self.context = int(getattr(config, "max_position_embeddings", None) or 1 << 30)
        self.sampling = sampling or Sampling()
        self.stub: AnswerStub = BOXED
        self.probe: dict[str, Any] | None = None
        self.kept_trunks: tuple[list[tuple[int, int]], list[Any]] | None = None  # `anchors.models.trunks` owns it

    @classmethod
    def from_directory(cls, path: str | Path, *, name: str, **options: Any) -> LensModel:
        """Load a hub id or local directory as `anchors.models.loading` does; float32 unless `dtype` says otherwise.

        Raises:
            ValueError: it cannot be loaded, or not whole.
        """
        from anchors.models.loading import load_checkpoint, read_card

        module, tokenizer = load_checkpoint(path, name=name, **options)
        model, card = cls(module, tokenizer, name=name), read_card(Path(path))
        if card is not None:
            model.sampling, model.stub, model.probe = card
        return model

    @classmethod
    def from_bridge(cls, bridge: Any) -> LensModel:
        """Measure the weights of a TransformerBridge; hooks that sit on the bridge do not act here."""
        from anchors.models.bridge import plain_module

        return cls(plain_module(bridge), bridge.tokenizer, name=str(bridge.cfg.model_name))

    @cached_property
    def bridge(self) -> TransformerBridge:
        """A TransformerBridge over the same weights, for your own hooks and caches."""
        from anchors.models.bridge import build_bridge

        return build_bridge(self)

    @property
    def device(self) -> torch.device:
        return next(self.module.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.module.parameters()).dtype

    @property
    def vocabulary(self) -> int:
        """Number of logits."""
        return int(self.module.get_output_embeddings().weight.shape[0])

    @cached_property
    def fingerprint(self) -> str:
        """A digest of the configuration and of a sample of every weight, so that stored rollouts name their model."""
        digest = blake2b(digest_size=8)
        config = self.module.config.to_diff_dict() | {"transformers_version": None}
        digest.update(json.dumps(config, sort_keys=True, default=str).encode())
        for name, p in self.module.named_parameters():
            flat = p.detach().flatten()
            picks = flat[:: max(1, len(flat) // 256)].float().cpu()
            digest.update(name.encode() + picks.numpy().tobytes())
        return digest.hexdigest()

    def __repr__(self) -> str:
        kind = self.module.config.model_type
        return f"LensModel({self.name}, {kind}, {self.layers} layers x {self.heads} heads, {self.dtype}, {self.device})"

    # -- text ----------------------------------------------------------------------------------------------------

    def encode(self, text: str) -> Tokens:
        """One tokenisation of `text`; a beginning-of-text token the model expects is added with offset (-1, -1).

        Raises:
            ValueError: the tokenizer cannot reproduce the text.
        """
        try:
            encoded = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        except (UnicodeEncodeError, TypeError) as error:
            raise ValueError(
                f"{self.name}'s tokenizer cannot read the text: {error}; remove lone surrogates"
            ) from error
        ids, offsets = list(encoded["input_ids"]), [tuple(o) for o in encoded["offset_mapping"]]
        self._check_round_trip(text, ids)
        if ids and max(ids) >= self.vocabulary:
            raise ValueError(
                f"{self.name}'s tokenizer gives token {max(ids)} but the model has {self.vocabulary} of them"
            )
        if self._bos is not None and ids[:1] != [self._bos]:
            ids, offsets = [self._bos, *ids], [(-1, -1), *offsets]
        return Tokens(ids, offsets)

    def _check_round_trip(self, text: str, ids: list[int]) -> None:
        back = self.decode(ids)
        if back.lstrip(" ") == text.lstrip(" "):
            return
        at = next((i for i, (a, b) in enumerate(zip(text, back, strict=False)) if a != b), min(len(text), len(back)))
        raise ValueError(
            f"{self.name}'s tokenizer does not reproduce the text: at character {at} "
            f"{text[at : at + 20]!r} came back as {back[at : at + 20]!r}; normalise the text or use another tokenizer"
        )

    @cached_property
    def _bos(self) -> int | None:
        bos = self.tokenizer.bos_token_id
        return bos if bos is not None and self.tokenizer("a")["input_ids"][:1] == [bos] else None

    def decode(self, ids: Sequence[int]) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)

    def render_prompt(self, prompt: str) -> str:
        """The text a model reasons from: its chat template where it has one, else the prompt as it is."""
        if "<think>" in prompt or not self.tokenizer.chat_template:
            return prompt
        messages = [{"role": "user", "content": prompt}]
        return self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)

    @cached_property
    def end_ids(self) -> frozenset[int]:
        """Token ids that end a text."""
        found = getattr(self.module.generation_config, "eos_token_id", None)
        ids = [found] if isinstance(found, int) else list(found or [])
        return frozenset([*ids, *([self.tokenizer.eos_token_id] if self.tokenizer.eos_token_id is not None else [])])

    def check_length(self, tokens: int, *, what: str) -> None:
        """ValueError when `what` does not fit the model's context."""
        if tokens > self.context:
            raise ValueError(
                f"{what} has {tokens} tokens but {self.name} has {self.context} positions; the first {self.context} "
                "tokens would fit. Shorten the trace or use a model with a longer context"
            )

    # -- forward -------------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def hidden(self, ids: Sequence[int], run: TracePass) -> Float[Tensor, "token width"]:
        """Final hidden states of tokens [run.start, T) under a pass.

        Raises:
            ValueError: one of them is NaN or infinite.
        """
        new = torch.tensor([ids[run.start :]], device=self.device)
        spend(read=new.shape[1])
        positions = torch.arange(run.start, len(ids), device=self.device)[None]
        found = self.run_module(new, positions, run)[0]
        if not bool(torch.isfinite(found).all()):
            raise ValueError(f"{self.name} returned NaN or infinite hidden states; load it with dtype=torch.float32")
        return found

    def run_module(
        self,
        ids: Int[Tensor, "row token"],
        positions: Int[Tensor, "row token"],
        run: attention_pass.Pass,
        *,
        module: Any = None,
    ) -> Float[Tensor, "row token width"]:
        """Final hidden states of any rows of tokens under any pass; `module` is a variant over the same weights."""
        base = (self.module if module is None else module).base_model
        with torch.inference_mode(), attention_pass.running(run):
            return base(input_ids=ids, position_ids=positions, use_cache=False).last_hidden_state

    @torch.inference_mode()
    def unembed(self, hidden: Float[Tensor, "... width"]) -> Float[Tensor, "... vocabulary"]:
        """Logits in at least float32, with the final soft cap or scale the architecture applies."""
        logits = self.module.get_output_embeddings()(hidden)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        config = self.module.config.get_text_config()
        cap = getattr(config, "final_logit_softcapping", None)
        if cap:
            logits = cap * torch.tanh(logits / cap)
        scale = getattr(config, "logit_scale", None) or 1 / (getattr(config, "logits_scaling", None) or 1)
        return logits if scale == 1 else logits * scale

    def prefill(self, ids: Sequence[int]) -> tuple[Float[Tensor, "token width"], list[LayerCache]]:
        """Hidden states of a text and the keys and values of every layer."""
        run = TracePass(record=True)
        hidden = self.hidden(ids, run)
        return hidden, [run.recorded[layer] for layer in range(self.layers)]

    # -- white box -----------------------------------------------------------------------------------------------

    def token_block(
        self,
        tokens: Tokens,
        block: tuple[int, int],
        *,
        layers: Iterable[int] | None = None,
        heads: Iterable[tuple[int, int]] | None = None,
    ) -> Block:
        """The key columns of a character span, for some layers or (layer, head) pairs."""
        (span,) = token_spans(tokens.offsets, [block]).spans
        return self.column_block(span, layers=layers, heads=heads)

    def column_block(
        self,
        columns: tuple[int, int],
        *,
        layers: Iterable[int] | None = None,
        heads: Iterable[tuple[int, int]] | None = None,
    ) -> Block:
        """Key columns [start, end), for some layers or (layer, head) pairs; ValueError for one that does not exist."""
        chosen = None if layers is None else frozenset(self._known_layers(layers))
        pairs = None if heads is None else frozenset(self._known_heads(heads))
        return Block(*columns, layers=chosen, heads=pairs)

    def _known_layers(self, layers: Iterable[int]) -> Iterator[int]:
        for layer in layers:
            if not 0 <= layer < self.layers:
                raise ValueError(f"layer {layer} does not exist; {self.name} has layers 0 to {self.layers - 1}")
            yield layer

    def _known_heads(self, heads: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
        for layer, head in heads:
            if not 0 <= head < self.heads:
                raise ValueError(f"head {head} does not exist; {self.name} has heads 0 to {self.heads - 1}")
            yield from ((known, head) for known in self._known_layers([layer]))

    def logprobs(
        self,
        text: str,
        *,
        block: tuple[int, int] | None = None,
        layers: Iterable[int] | None = None,
        heads: Iterable[tuple[int, int]] | None = None,
    ) -> Float[Tensor, "token vocabulary"]:
        """log p(next token) at every position of `text` in nats, with attention to characters `block` cut off.

        Row t is the distribution after token t. An empty block changes nothing.
        """
        tokens = self.encode(text)
        self.check_length(len(tokens.ids), what="the text")
        cut = None if block is None else self.token_block(tokens, block, layers=layers, heads=heads)
        hidden = self.hidden(tokens.ids, TracePass(block=cut))
        logits = self.unembed(hidden)
        if not bool(torch.isfinite(logits).all()):
            raise ValueError(f"{self.name} returned NaN or infinite logits; load it with dtype=torch.float32")
        return torch.log_softmax(logits, dim=-1)

    def pooled_attention(
        self, text: str, spans: Sequence[tuple[int, int]]
    ) -> Float[Tensor, "layer head target source"]:
        """Mean attention between the tokens of character spans: A[l, h, i, j] = mean over rows of i and columns of j.

        Reduced inside each layer, in blocks of queries: no [head, token, token] array is ever kept. A span without
        tokens of its own is NaN.
        """
        found: list[Tensor] = []
        self.visit_attention(text, spans, lambda _layer, _head, means: found.append(means.cpu()))
        return torch.stack(found).unflatten(0, (self.layers, self.heads))

    def visit_attention(
        self, text: str, spans: Sequence[tuple[int, int]], visit: Callable[[int, int, Tensor], None]
    ) -> None:
        """Hand `pooled_attention` over, (layer, head, [target, source]) at a time, and keep none of it."""
        tokens = self.encode(text)
        self.check_length(len(tokens.ids), what="the text")
        ranges = token_spans(tokens.offsets, spans).spans
        empty = torch.tensor([a == b for a, b in ranges], device=self.device)

        def handed(layer: int, head: int, means: Tensor) -> None:
            visit(layer, head, means.masked_fill(empty[:, None] | empty, torch.nan))

        self.hidden(tokens.ids, TracePass(pool=(ranges, handed)))

    def score(
        self,
        texts: Sequence[str],
        starts: Sequence[int],
        *,
        block: tuple[int, int] | None = None,
        ablate: Iterable[tuple[int, int]] = (),
    ) -> list[Scored]:
        """log p of the characters from `starts[i]` to the end of `texts[i]`, in nats, given what precedes them.

        A first token that begins before `starts[i]` is scored whole; `Scored.tokens` counts it.
        """
        ablated = frozenset(self._known_heads(ablate))
        return [self._score(text, start, block, ablated) for text, start in zip(texts, starts, strict=True)]

    def _score(
        self, text: str, start: int, block: tuple[int, int] | None, ablate: frozenset[tuple[int, int]]
    ) -> Scored:
        tokens = self.encode(text)
        self.check_length(len(tokens.ids), what="the text with its forced answer")
        first, end = answer_tokens(tokens.offsets, start)
        cut = None if block is None else self.token_block(tokens, block)
        hidden = self.hidden(tokens.ids, TracePass(block=cut, ablate=ablate))
        return Scored(self.logprob_of(tokens.ids[first:end], hidden[first - 1 : end - 1]), end - first)

    def logprob_of(self, ids: Sequence[int], hidden: Float[Tensor, "token width"]) -> float:
        """Summed log p of `ids` in nats, from the hidden states that predict them, one a token.

        Raises:
            ValueError: the sum is NaN or infinite.
        """
        return self.logprobs_of([ids], [hidden])[0]

    def logprobs_of(self, rows: Sequence[Sequence[int]], hidden: Sequence[Tensor]) -> list[float]:
        """`logprob_of` several rows; the unembedding runs once for all of them, a bounded number of tokens at a time."""
        ids = torch.tensor([token for row in rows for token in row], device=self.device)
        block = max(64, UNEMBEDDED // self.vocabulary)
        parts = [
            torch.log_softmax(self.unembed(states), dim=-1).gather(-1, targets[:, None])[:, 0].double()
            for states, targets in zip(torch.cat(list(hidden)).split(block), ids.split(block), strict=True)
        ]
        sums = [float(part.sum()) for part in torch.cat(parts).split([len(row) for row in rows])]
        if not np.isfinite(sums).all():
            raise ValueError(f"{self.name} returned NaN or infinite logits; load it with dtype=torch.float32")
        return sums

    # -- black box -----------------------------------------------------------------------------------------------

    live = True

    def generate(
        self, jobs: Iterable[Job | None], *, sampling: Sampling, seed: int, batch_size: int = 256
    ) -> Iterator[tuple[Job, Completion]]:
        """Draw every job's rollout over a trunk its text's jobs share; see `anchors.models.engine`."""
        from anchors.models.engine import draw

        return generating(draw(self, jobs, sampling=sampling, seed=seed, batch_size=batch_size))


def share_weights(module: Any) -> Any:
    """A structural copy of a module whose parameters and buffers are the same tensors."""
    memo = {id(t): t for t in [*module.parameters(), *module.buffers()]}
    return copy.deepcopy(module, memo)

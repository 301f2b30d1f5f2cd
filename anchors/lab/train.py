"""Train a small reasoning model on a world.

1. The tokenizer is a byte-level BPE with enough merges that every word of its verbose traces and every " 7" is one token, or
   a character tokenizer (the same bytes without merges).
2. The data of a step depend on (seed, step) alone (`batches`), so a resumed run sees exactly what it would have seen.
3. In the last `exact_steps` steps the target of a token is the program's own distribution over it in place of the token drawn.
4. Where a recipe says so, inner layers are read too, and the readouts thrown away: one tells the planted role of every sentence
   at its last token, the other the next token. A verdict is one token in a thousand; without the first no model learned to see at a
   self-check whether a step had slipped, and the second makes results known early enough to be compared.
5. Where a recipe says so, the heads of the first layer look a fixed number of tokens back and learn nothing else: characters are
   put together to words before anything is looked up.
6. Muon moves the weight matrices, AdamW the rest; the learning rate is warm, flat, then linear to zero.
7. Every `save_every` steps weights and optimiser state go to disk; the same call continues from there. Right answers
   and right steps on freshly drawn problems are shown there too: loss hides a model that never reads its prompt.

Recipe facts (initialisation, tokenisation, Muon) come from a feasibility run on a sibling world.
"""

from __future__ import annotations

import copy
import logging
import os
import random
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from pickle import UnpicklingError  # the error alone
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from torch.nn import functional as F
from tqdm.auto import tqdm
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from anchors.forced import AnswerStub
from anchors.lab.batches import SKIPPED, Batch, batch
from anchors.lab.regimes import document, parse_regime, regime_world
from anchors.lab.worlds import ROLES, World, load_world
from anchors.models.base import Sampling

logger = logging.getLogger(__name__)

SPECIAL = ("<pad>", "<eos>", "<think>", "</think>")
CHECKPOINT = "checkpoint.pt"
_JUNK = (LookupError, AttributeError, TypeError, AssertionError)  # what torch raises on bytes that are no checkpoint
STATE = {"recipe", "step", "seconds", "learner", "optimisers"}
READOUTS = ("early_layer", "surprise_layer", "role_layer")
EARLY = 0.5  # weight of the early readout's loss
STRENGTH, FREQUENCIES = 8.0, 6  # of heads that look back: 98 % of their attention lies where it should


@dataclass(frozen=True)
class Recipe:
    """Everything that determines a trained model; `seed` fixes initial weights and data.

    `knobs` are those of the world; in the first `warm_steps` steps (whole pools of eight) `warm_knobs` replace some of them. In
    the last `exact_steps` steps the targets are the program's exact distributions. `regime` is a name or mixture of
    `anchors.lab.regimes`, `tokenizer` "bpe" or "char". `early_layer`, `surprise_layer` and `role_layer`: layers below an early
    readout of the next token, of surprises and of roles; 0 for none. `look_back`: how many tokens back each head of
    the first layer attends, whatever is written there; it learns nothing else. Empty for heads like all others.
    """

    world: str = "expression"
    knobs: tuple[tuple[str, Any], ...] = ()
    regime: str = "normal"
    tokenizer: str = "bpe"
    seed: int = 0
    layers: int = 4
    width: int = 128
    heads: int = 4
    mlp: int = 512
    context: int = 512
    steps: int = 5000
    batch: int = 32
    matrix_rate: float = 0.02
    other_rate: float = 3e-3
    init: float = 0.06
    bfloat16: bool = True
    warm_knobs: tuple[tuple[str, Any], ...] = ()
    warm_steps: int = 0
    exact_steps: int = 0
    role_layer: int = 0
    early_layer: int = 0
    surprise_layer: int = 0
    look_back: tuple[int, ...] = ()

    @property
    def program(self) -> World:
        """The world it trains on."""
        return load_world(self.world, **dict(self.knobs))


class Learner(torch.nn.Module):
    """A model with what is learned along with it and thrown away: early readouts of the next token, of surprises and of roles."""

    def __init__(self, recipe: Recipe, vocabulary: int) -> None:
        super().__init__()
        for name in READOUTS:
            if not 0 <= getattr(recipe, name) < recipe.layers:
                raise ValueError(
                    f"{name} is {getattr(recipe, name)}; it is an inner one of {recipe.layers} layers, 0 for none"
                )
        self.model = build_model(recipe, vocabulary)
        self.role_layer, self.early_layer = recipe.role_layer, recipe.early_layer
        self.surprise_layer = recipe.surprise_layer
        self.readout = torch.nn.Linear(recipe.width, len(ROLES)) if recipe.role_layer else None
        self.surprise_readout = torch.nn.Linear(recipe.width, 2) if recipe.surprise_layer else None

    def loss(self, data: Batch) -> tuple[Tensor, Tensor]:
        """Mean cross-entropy of the tokens, and what the readouts of inner layers add to it."""
        inner = bool(self.role_layer or self.early_layer or self.surprise_layer)
        found = self.model(input_ids=data.ids, output_hidden_states=inner)
        tokens = _cross_entropy(found.logits.float(), data)
        extra = torch.zeros_like(tokens)
        if self.readout is not None:
            extra = extra + _read(self.readout, found.hidden_states[self.role_layer], data.roles)
        if self.surprise_readout is not None:
            extra = extra + _read(self.surprise_readout, found.hidden_states[self.surprise_layer], data.surprises)
        if self.early_layer:
            early = self.model.lm_head(self.model.model.norm(found.hidden_states[self.early_layer]))
            extra = extra + EARLY * _cross_entropy(early.float(), data)
        return tokens, extra


def _read(readout: torch.nn.Linear, hidden: Tensor, wanted: Tensor) -> Tensor:
    """Mean loss of what a linear readout of normalised hidden states tells."""
    told = readout(F.rms_norm(hidden, hidden.shape[-1:])).float()
    return _summed(told, wanted) / (wanted != SKIPPED).sum().clamp(min=1)


def _cross_entropy(logits: Tensor, data: Batch) -> Tensor:
    """Mean over the tokens of the loss: of the one written, or of all that may stand there by their probabilities."""
    row, at, token = data.forks.T
    several = (F.cross_entropy(logits[row, at - 1], token, reduction="none") * data.chances).sum()
    tokens = (data.labels != SKIPPED).sum() + data.chances.sum()
    return (_summed(logits[:, :-1], data.labels[:, 1:]) + several) / tokens


def _summed(logits: Tensor, wanted: Tensor) -> Tensor:
    return F.cross_entropy(logits.flatten(0, 1), wanted.flatten(), ignore_index=SKIPPED, reduction="sum")


def build_tokenizer(world: World, kind: str = "bpe", *, texts: int = 4000) -> PreTrainedTokenizerFast:
    """The tokenizer of a world, trained on its own traces: "bpe" ends with every word one token, "char" merges nothing.

    Raises:
        ValueError: another kind.
    """
    if kind not in ("bpe", "char"):
        raise ValueError(f"tokenizer is {kind!r}; use 'bpe' or 'char'")
    rng = random.Random("tokenizer")
    documents = (document(world, rng) for _ in range(texts if kind == "bpe" else 1))
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore[assignment]
    bpe.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=1024 if kind == "bpe" else len(SPECIAL) + len(alphabet),
        special_tokens=list(SPECIAL),
        initial_alphabet=alphabet,
        show_progress=False,
    )
    bpe.train_from_iterator((d.prompt + d.completion for d in documents), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token="<eos>", pad_token="<pad>", clean_up_tokenization_spaces=False
    )


def build_model(recipe: Recipe, vocabulary: int) -> LlamaForCausalLM:
    """A freshly initialised model; Llama-type, so that transformers keeps the tokenizer exactly as saved.

    Eager attention for contexts up to 512: on rows so short its backward pass is 1.7 times as fast on CPU as the fused kernel's.
    """
    torch.manual_seed(recipe.seed)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=recipe.width,
        intermediate_size=recipe.mlp,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.heads,
        max_position_embeddings=recipe.context,
        initializer_range=recipe.init,
        attention_bias=bool(recipe.look_back),
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=1,
        pad_token_id=0,
    )
    model = LlamaForCausalLM._from_config(config, attn_implementation="sdpa" if recipe.context > 512 else "eager")
    if recipe.look_back:
        _look_back(model, recipe.look_back)
    return model


def _look_back(model: LlamaForCausalLM, offsets: Sequence[int]) -> None:
    """Let every head of the first layer attend so many tokens back, for good.

    Without weights, biases of queries and keys turned against each other give a pair of rotated dimensions the logit
    ``STRENGTH * cos((distance - offset) * frequency)``. The fastest few frequencies are enough, and keep logits small for bfloat16.
    """
    attention: Any = model.model.layers[0].self_attn
    frequencies = model.model.rotary_emb.inv_freq[:FREQUENCIES]
    if len(offsets) != model.config.num_attention_heads or min(offsets) < 0:
        raise ValueError(
            f"look_back is {tuple(offsets)}; give each of {model.config.num_attention_heads} heads 0 or more tokens"
        )
    queries, keys = torch.zeros(2, len(offsets), 2, attention.head_dim // 2)
    size = (STRENGTH / attention.scaling) ** 0.5
    angles = torch.tensor(offsets)[:, None] * frequencies
    keys[:, 0, :FREQUENCIES] = size
    queries[..., :FREQUENCIES] = size * torch.stack((angles.cos(), -angles.sin()), dim=1)
    for projection, bias in ((attention.q_proj, queries), (attention.k_proj, keys)):
        projection.requires_grad_(False)
        projection.weight.zero_()
        projection.bias.copy_(bias.flatten())


def _optimisers(learner: Learner, recipe: Recipe) -> list[torch.optim.Optimizer]:
    named = [(name, p) for name, p in learner.named_parameters() if p.requires_grad]
    inner = {name for name, p in named if p.ndim == 2 and "embed" not in name and "readout" not in name}
    matrices = [p for name, p in named if name in inner]
    rest = [p for name, p in named if name not in inner]
    return [
        torch.optim.Muon(matrices, lr=recipe.matrix_rate, weight_decay=0.0),
        torch.optim.AdamW(rest, lr=recipe.other_rate, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def _rate(step: int, recipe: Recipe) -> float:
    warm, decay = min(1.0, (step + 1) / 100), (recipe.steps - step) / (0.4 * recipe.steps)
    return min(warm, max(0.0, min(1.0, decay)))


def train(
    recipe: Recipe, out: str | Path, *, save_every: int = 500, held_out: int = 100, progress: bool = True
) -> Path:
    """Train to `recipe.steps`, continuing from the last checkpoint in `out`; leaves a Hugging Face directory there.

    With every checkpoint the model reasons on `held_out` fresh problems, for the progress bar and the log. Runs on a GPU
    where torch finds one.

    Raises:
        ValueError: `out` was trained with another recipe, or the recipe names an unknown world, knob or regime.
    """
    parse_regime(recipe.regime)
    world = recipe.program
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = build_tokenizer(world, recipe.tokenizer)
    learner = Learner(recipe, len(tokenizer)).to("cuda" if torch.cuda.is_available() else "cpu")
    optimisers = _optimisers(learner, recipe)
    checkpoint = folder / CHECKPOINT
    first, seconds = _resume(checkpoint, recipe, learner, optimisers)
    shown: dict[str, str] = {}
    started = time.perf_counter() - seconds
    bar = tqdm(
        range(first, recipe.steps), initial=first, total=recipe.steps, desc=folder.name, mininterval=5,
        disable=not progress,
    )  # fmt: skip
    for step in bar:
        loss = _step(learner, optimisers, batch(tokenizer, recipe, step), _rate(step, recipe), recipe)
        if step % 50 == 0:
            bar.set_postfix(shown | {"loss": f"{loss:.4f}"})
        if (step + 1) % save_every == 0 or step + 1 == recipe.steps:
            _save(checkpoint, recipe, learner, optimisers, step + 1, time.perf_counter() - started)
            if held_out:
                shown = _held_out(
                    learner.model, tokenizer, regime_world(world, recipe.regime), sampling_of(recipe), held_out
                )
            logger.info("%s step %d loss %.4f %s", folder.name, step + 1, loss, shown)
    export(learner.model, tokenizer, folder)
    return folder


def sampling_of(recipe: Recipe) -> Sampling:
    """How a small model is sampled: exactly its own distribution, up to half its context."""
    return Sampling(temperature=1.0, top_p=1.0, max_new_tokens=recipe.context // 2)


def answer_stub(world: World) -> AnswerStub:
    """The text around a forced answer, as the world writes it."""
    before, after = world.ending("0").split("0")
    return AnswerStub(before, after)


def _held_out(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, world: World, sampling: Sampling, problems: int
) -> dict[str, str]:
    """Shares of right answers and right steps on fresh problems, by a copy of the model as it stands."""
    from anchors.lab.evaluate import written_traces
    from anchors.models.lens import LensModel

    lens = LensModel(copy.deepcopy(model).float(), tokenizer, name="in training", sampling=sampling)
    found = written_traces(lens, world, problems=problems, seed=1)
    return {"gold": f"{found.gold:.2f}", "steps": f"{found.steps_right:.2f}"}


def _step(learner: Learner, optimisers: list[torch.optim.Optimizer], data: Batch, rate: float, recipe: Recipe) -> float:
    """One update; returns the loss of the tokens."""
    data = Batch(*(tensor.to(learner.model.device) for tensor in data))
    learner.train()
    with torch.autocast(data.ids.device.type, torch.bfloat16, enabled=recipe.bfloat16):
        tokens, extra = learner.loss(data)
    (tokens + extra).backward()
    for optimiser in optimisers:
        for group in optimiser.param_groups:
            group.setdefault("base", group["lr"])
            group["lr"] = group["base"] * rate
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
    return float(tokens.detach())


def _save(
    path: Path,
    recipe: Recipe,
    learner: Learner,
    optimisers: list[torch.optim.Optimizer],
    step: int,
    seconds: float,
) -> None:
    state = {
        "recipe": asdict(recipe),
        "step": step,
        "seconds": seconds,
        "learner": learner.state_dict(),
        "optimisers": [optimiser.state_dict() for optimiser in optimisers],
    }
    temporary = path.with_suffix(".tmp")
    with temporary.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())  # else a power cut can leave the new name on half a file
    temporary.replace(path)


def load_state(path: Path, device: Any = "cpu") -> dict[str, Any]:
    """What `train` saved in a checkpoint.

    Raises:
        ValueError: the file is damaged or something else.
    """
    try:
        state = torch.load(path, weights_only=True, map_location=device)
    except (RuntimeError, OSError, EOFError, ValueError, *_JUNK, UnpicklingError) as error:
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{path} is damaged ({why}); delete it and training starts from the beginning") from error
    if not isinstance(state, dict) or set(state) != STATE:
        raise ValueError(f"{path} is not a checkpoint of this training; use another folder")
    return state


def _resume(path: Path, recipe: Recipe, learner: Learner, optimisers: list[torch.optim.Optimizer]) -> tuple[int, float]:
    """The step to go on from and the seconds spent so far."""
    if not path.exists():
        return 0, 0.0
    state = load_state(path, learner.model.device)
    saved = asdict(Recipe()) | state["recipe"]  # settings younger than the checkpoint had their defaults
    if saved != asdict(recipe):
        changed = {k for k, v in asdict(recipe).items() if saved[k] != v}
        raise ValueError(f"{path} was trained with another recipe ({', '.join(sorted(changed))}); use another folder")
    learner.load_state_dict(state["learner"])
    for optimiser, moments in zip(optimisers, state["optimisers"], strict=True):
        optimiser.load_state_dict(moments)
    logger.info("continuing %s from step %d", path.parent, state["step"])
    return state["step"], state["seconds"]


def export(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write model and tokenizer in Hugging Face format, float16; the tied output matrix is stored once, as the embedding."""
    model.config.dtype = torch.float16
    model.config.architectures = ["LlamaForCausalLM"]
    weights = {name: tensor.half() for name, tensor in model.state_dict().items() if name != "lm_head.weight"}
    model.save_pretrained(folder, state_dict=weights)
    tokenizer.chat_template = "{{ messages[-1].content + '\n<think>\n' }}"
    tokenizer.save_pretrained(folder)

"""Train a small reasoning model on a world.

1. The tokenizer is a byte-level BPE with enough merges that every word of the world and every " 7" is one token.
2. Each step draws fresh documents from (seed, step), so a resumed run sees exactly the data it would have seen.
3. A document is prompt + reasoning + answer + end token, one to a row; the loss covers everything after the prompt.
4. Muon moves the weight matrices, AdamW the rest; the learning rate is warm, flat, then linear to zero.
5. Every `save_every` steps weights and optimiser state go to disk; the same call continues from there.

Recipe facts (initialisation, tokenisation, Muon) come from a feasibility run on a sibling world.
"""

from __future__ import annotations

import json
import logging
import random
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from tqdm.auto import tqdm
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from anchors.lab.worlds import World, load_world, write

logger = logging.getLogger(__name__)

SPECIAL = ("<pad>", "<eos>", "<think>", "</think>")
POOL = 8


@dataclass(frozen=True)
class Recipe:
    """Everything that determines a trained model; `seed` fixes initial weights and data."""

    world: str = "expression"
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


@dataclass(frozen=True)
class Document:
    """One training text, split where the loss begins."""

    prompt: str
    completion: str


def document(world: World, rng: random.Random) -> Document:
    """Draw a problem and let the world write its trace and answer."""
    problem = world.problem(rng)
    written = write(world, problem, rng)
    answer = world.answer(written.end)
    assert answer is not None
    return Document(world.prompt(problem), written.reasoning + world.ending(answer))


def build_tokenizer(world: World, *, texts: int = 4000) -> PreTrainedTokenizerFast:
    """Train the byte-level BPE of a world; merges run out when every word is one token."""
    rng = random.Random("tokenizer")
    documents = (document(world, rng) for _ in range(texts))
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore[assignment]
    bpe.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    trainer = trainers.BpeTrainer(
        vocab_size=1024,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator((d.prompt + d.completion for d in documents), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token="<eos>", pad_token="<pad>", clean_up_tokenization_spaces=False
    )


def build_model(recipe: Recipe, vocabulary: int) -> LlamaForCausalLM:
    """A freshly initialised model; Llama-type, so that transformers keeps the tokenizer exactly as saved."""
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
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=1,
        pad_token_id=0,
    )
    return LlamaForCausalLM(config)


@lru_cache(maxsize=2)
def _pool(world: World, recipe: Recipe, index: int) -> list[list[Document]]:
    """Eight steps of documents sorted by length, so that a row carries little padding; batches come in random order."""
    rng = random.Random(f"{recipe.seed}/{index}")
    documents = sorted((document(world, rng) for _ in range(POOL * recipe.batch)), key=lambda d: len(d.completion))
    batches = [documents[i : i + recipe.batch] for i in range(0, len(documents), recipe.batch)]
    rng.shuffle(batches)
    return batches


def batch(world: World, tokenizer: PreTrainedTokenizerFast, recipe: Recipe, step: int) -> tuple[Tensor, Tensor]:
    """Token ids and labels [row, token] of one step, a function of (seed, step); -100 marks what the loss skips."""
    documents = _pool(world, recipe, step // POOL)[step % POOL]
    prompts = tokenizer([d.prompt for d in documents]).input_ids
    rests = tokenizer([d.completion for d in documents]).input_ids
    rows = [(prompt, [*rest, tokenizer.eos_token_id]) for prompt, rest in zip(prompts, rests, strict=True)]
    longest = max(len(prompt) + len(rest) for prompt, rest in rows)
    ids = torch.full((len(rows), longest), SPECIAL.index("<pad>"))
    labels = torch.full_like(ids, -100)
    for row, (prompt, rest) in enumerate(rows):
        end = len(prompt) + len(rest)
        ids[row, :end] = torch.tensor(prompt + rest)
        labels[row, len(prompt) : end] = torch.tensor(rest)
    return ids, labels


def _optimisers(model: LlamaForCausalLM, recipe: Recipe) -> list[torch.optim.Optimizer]:
    named = list(model.named_parameters())
    matrices = [p for name, p in named if p.ndim == 2 and "embed" not in name]
    rest = [p for name, p in named if p.ndim != 2 or "embed" in name]
    return [
        torch.optim.Muon(matrices, lr=recipe.matrix_rate, weight_decay=0.0),
        torch.optim.AdamW(rest, lr=recipe.other_rate, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def _rate(step: int, recipe: Recipe) -> float:
    warm, decay = min(1.0, (step + 1) / 100), (recipe.steps - step) / (0.4 * recipe.steps)
    return min(warm, max(0.0, min(1.0, decay)))


def train(recipe: Recipe, out: str | Path, *, save_every: int = 500) -> Path:
    """Train to `recipe.steps`, continuing from the last checkpoint in `out`; leaves a Hugging Face directory there."""
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    world = load_world(recipe.world)
    tokenizer = build_tokenizer(world)
    model = build_model(recipe, len(tokenizer))
    optimisers = _optimisers(model, recipe)
    checkpoint = folder / "checkpoint.pt"
    first = _resume(checkpoint, recipe, model, optimisers)
    bar = tqdm(range(first, recipe.steps), initial=first, total=recipe.steps, desc=folder.name, mininterval=5)
    for step in bar:
        loss = _step(model, optimisers, batch(world, tokenizer, recipe, step), _rate(step, recipe), recipe)
        if step % 50 == 0:
            bar.set_postfix(loss=f"{loss:.4f}")
        if (step + 1) % save_every == 0 or step + 1 == recipe.steps:
            _save(checkpoint, recipe, model, optimisers, step + 1)
    export(model, tokenizer, folder)
    return folder


def _step(
    model: LlamaForCausalLM,
    optimisers: list[torch.optim.Optimizer],
    data: tuple[Tensor, Tensor],
    rate: float,
    recipe: Recipe,
) -> float:
    ids, labels = data
    model.train()
    with torch.autocast(ids.device.type, torch.bfloat16, enabled=recipe.bfloat16):
        logits = model(input_ids=ids).logits[:, :-1].float()
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)
    loss.backward()
    for optimiser in optimisers:
        for group in optimiser.param_groups:
            group.setdefault("base", group["lr"])
            group["lr"] = group["base"] * rate
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
    return float(loss.detach())


def _save(
    path: Path, recipe: Recipe, model: LlamaForCausalLM, optimisers: list[torch.optim.Optimizer], step: int
) -> None:
    state = {
        "recipe": asdict(recipe),
        "step": step,
        "model": model.state_dict(),
        "optimisers": [optimiser.state_dict() for optimiser in optimisers],
    }
    temporary = path.with_suffix(".tmp")
    torch.save(state, temporary)
    temporary.replace(path)


def _resume(path: Path, recipe: Recipe, model: LlamaForCausalLM, optimisers: list[torch.optim.Optimizer]) -> int:
    if not path.exists():
        return 0
    state = torch.load(path, weights_only=True)
    if state["recipe"] != asdict(recipe):
        changed = {k for k, v in asdict(recipe).items() if state["recipe"].get(k) != v}
        raise ValueError(f"{path} was trained with another recipe ({', '.join(sorted(changed))}); use another folder")
    model.load_state_dict(state["model"])
    for optimiser, saved in zip(optimisers, state["optimisers"], strict=True):
        optimiser.load_state_dict(saved)
    logger.info("continuing %s from step %d", path.parent, state["step"])
    return state["step"]


def export(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write model and tokenizer in Hugging Face format, float16."""
    model.config.dtype = torch.float16
    model.config.architectures = ["LlamaForCausalLM"]
    model.save_pretrained(folder, state_dict={name: tensor.half() for name, tensor in model.state_dict().items()})
    tokenizer.chat_template = "{{ messages[-1].content + '\n<think>\n' }}"
    tokenizer.save_pretrained(folder)


def write_card(recipe: Recipe, folder: Path, *, problems: int = 600, traces: int = 6, n: int = 200) -> dict[str, Any]:
    """Measure a finished model and leave `card.json` and `README.md`; what `load_model` needs is in the card.

    The card carries the default sampling and answer stub, and ids the tokenizer must reproduce at load.
    """
    from anchors.lab.evaluate import evaluate
    from anchors.models.base import Sampling
    from anchors.models.lens import LensModel

    world = load_world(recipe.world)
    sampling = Sampling(temperature=1.0, top_p=1.0, max_new_tokens=256)
    model = LensModel.from_directory(folder, name=f"lab/{folder.name}")
    model.sampling = sampling
    probe = document(world, random.Random("probe"))
    text = probe.prompt + probe.completion
    found = evaluate(model, world, problems=problems, traces=traces, n=n)
    parameters = sum(p.numel() for p in model.module.parameters())
    card = {
        "summary": f"{parameters / 1e6:.1f} M parameters, reasons on `{recipe.world}`",
        "recipe": asdict(recipe),
        "parameters": parameters,
        "evaluation": {k: round(v, 4) for k, v in found._asdict().items()},
        "sampling": asdict(sampling),
        "stub": {"before": "\n</think>\nThe answer is ", "after": "."},
        "tokenizer_probe": {"text": text, "ids": model.encode(text).ids},
    }
    (folder / "card.json").write_text(json.dumps(card, indent=1) + "\n")
    (folder / "README.md").write_text(_readme(folder.name, card))
    return card


def _readme(name: str, card: dict[str, Any]) -> str:
    rows = "\n".join(f"| {key} | {value} |" for key, value in card["evaluation"].items())
    return (
        f"# lab/{name}\n\n{card['summary']}. Retrain it with `make zoo`; the recipe is in `card.json`.\n\n"
        "| held-out problems | |\n|---|---|\n"
        f"{rows}\n\n`ceiling`, `steps_ceiling` and `tv_floor` are what a perfect copy of the world gets; `tv` is the mean\n"
        "total variation between the answers of `rollouts` rollouts and the exact distribution at sentence boundaries.\n"
    )


def train_and_card(recipe: Recipe, out: str | Path) -> dict[str, Any]:
    """Train to the end (or continue) and write the model's card."""
    folder = train(recipe, out)
    return write_card(recipe, folder)

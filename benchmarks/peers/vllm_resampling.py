"""Run by the python of vLLM's own environment: continue every prompt n times and report tokens and seconds.

Reads a JSON request (model folder, prompts as token ids, n, temperature, top_p, max_tokens per prompt, end ids, seed)
from the file named first, writes token ids and seconds to the file named second. Loading and a warm-up are not timed.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path


def main() -> None:
    from vllm import LLM, SamplingParams

    source, target = map(Path, sys.argv[1:3])
    asked = json.loads(source.read_text())
    options = {"dtype": "float32", "skip_tokenizer_init": True, "enforce_eager": True, "enable_prefix_caching": True}
    model = LLM(asked["model"], max_model_len=asked["context"], max_num_seqs=256, seed=0, **options)

    def settings(limit: int, seed: int | None) -> SamplingParams:
        shape = {"temperature": asked["temperature"], "top_p": asked["top_p"], "max_tokens": limit}
        return SamplingParams(n=asked["n"], seed=seed, stop_token_ids=asked["ends"], detokenize=False, **shape)

    prompts = [{"prompt_token_ids": ids} for ids in asked["prompts"]]
    model.generate([{"prompt_token_ids": asked["prompts"][0][:8]}], settings(4, None), use_tqdm=False)
    runs = []
    for seed in asked["seeds"]:
        model.reset_prefix_cache()
        started = time.perf_counter()
        # No seed a request: vLLM's seeded sampler runs row by row, which would slow it down unfairly.
        found = model.generate(prompts, [settings(limit, None) for limit in asked["limits"]], use_tqdm=False)
        seconds = time.perf_counter() - started
        rows = [[list(o.token_ids) for o in result.outputs] for result in found]
        runs.append({"seconds": seconds, "rows": rows, "seed": seed})
    target.write_text(json.dumps(runs))


if __name__ == "__main__":
    main()

"""The server backend against a real server of another project: vLLM serving a lab checkpoint on loopback.

Runs only where ANCHORS_VLLM_PYTHON names the Python of an environment with vLLM (`make test-server` builds one).
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from urllib.error import URLError
from urllib.request import urlopen

import numpy as np
import pytest
from scipy.stats import chi2_contingency

from anchors import load_model
from anchors.answers import NO_ANSWER, extract_answer
from anchors.importance import forced_importance
from anchors.lab import world_trace
from anchors.lab.worlds import load_world
from anchors.models import ZOO
from anchors.models.base import CapabilityError
from anchors.models.server import ServerModel
from anchors.resampling import resample
from anchors.suppression import suppress

PYTHON = os.environ.get("ANCHORS_VLLM_PYTHON", "")
pytestmark = pytest.mark.skipif(not PYTHON, reason="ANCHORS_VLLM_PYTHON is not set; make test-server sets it")
TRACE = world_trace(load_world("expression"), seed=3)


@pytest.fixture(scope="module")
def served() -> Iterator[ServerModel]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [PYTHON, "-m", "vllm.entrypoints.openai.api_server", "--model", str(ZOO / "reasoner")]
    command += ["--served-model-name", "reasoner", "--host", "127.0.0.1", "--port", str(port), "--dtype", "float32"]
    command += ["--max-model-len", "512", "--enforce-eager", "--enable-prefix-caching", "--max-num-seqs", "64"]
    command += ["--enable-prompt-tokens-details"]
    environment = os.environ | {
        "HF_HUB_OFFLINE": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_NO_USAGE_STATS": "1",
        "OMP_NUM_THREADS": "1",
    }
    server = subprocess.Popen(command, env=environment, start_new_session=True)
    try:
        _wait_for(f"http://127.0.0.1:{port}/health", server)
        sampling = load_model("lab/reasoner").sampling
        yield load_model("server/reasoner", base_url=f"http://127.0.0.1:{port}/v1", sampling=sampling)
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(timeout=60)


def _wait_for(url: str, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        assert server.poll() is None, f"vLLM ended with {server.returncode}"
        try:
            with urlopen(url, timeout=2):
                return
        except (URLError, OSError):
            time.sleep(0.5)
    raise AssertionError("vLLM did not start within 240 s")


def test_what_vllm_offers_is_found(served: ServerModel) -> None:
    found = served.capabilities
    assert (found.logprobs, found.echo, found.keeps_stop, found.context) == (True, True, True, 512)
    assert found.seeded in (True, None)
    with pytest.raises(CapabilityError, match="needs a local model"):
        suppress(TRACE, served)  # type: ignore[arg-type]


def test_rollouts_have_the_distribution_of_the_local_model(served: ServerModel, tmp_path) -> None:
    local = load_model("lab/reasoner")
    options = {"n": 60, "seed": 0, "sampling": local.sampling, "progress": False}
    theirs, ours = resample(TRACE, served, out=tmp_path / "run", **options), resample(TRACE, local, **options)
    p = []
    for position in range(len(TRACE) + 1):
        counts = [Counter(extract_answer(r.text) or NO_ANSWER for r in side.at(position)) for side in (theirs, ours)]
        assert sum(counts[0].values()) == 60
        kinds = [kind for kind in counts[0] | counts[1] if counts[0][kind] + counts[1][kind] >= 10]
        if len(kinds) > 1:
            p.append(chi2_contingency([[side[kind] for kind in kinds] for side in counts]).pvalue)
    assert len(p) > 3
    assert min(p) > 0.01 / len(p)
    assert served.usage.hit_rate > 0.05  # whole blocks are cached only, and these prefixes are short
    assert served.usage.completion_tokens >= theirs.cost().tokens
    again = resample(TRACE, served, out=tmp_path / "run", **options)  # nothing is missing: nothing is asked
    assert again.cost() == theirs.cost()


def test_forced_answers_agree_with_the_local_model(served: ServerModel) -> None:
    local = load_model("lab/reasoner")
    ours, theirs = (forced_importance(TRACE, model, stub=local.stub) for model in (local, served))
    np.testing.assert_allclose(theirs.logprob, ours.logprob, atol=2e-3)

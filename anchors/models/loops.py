"""Whether inner loops run compiled by numba: once a draw has gone on for `SOON` steps, since loading them takes most of a second.

From then on they are there for everything in this process. Where numba is not installed tensor calls go on, and the log says so.
The first time on a machine they are compiled, which takes some seconds; the result is kept beside the code.
"""

from __future__ import annotations

import logging
from functools import cache
from importlib.util import find_spec
from types import ModuleType

log = logging.getLogger(__name__)

SOON = 64

_ready: list[ModuleType] = []


def loaded() -> ModuleType | None:
    """The compiled loops, where something has loaded them."""
    return _ready[0] if _ready else None


@cache
def load() -> ModuleType | None:
    """Load the compiled loops; None where numba is not installed."""
    if find_spec("numba") is None:
        log.info("numba is not installed, so rollouts go without compiled loops; pip install 'anchors[fast]' brings it")
        return None
    from anchors.models import compiled

    compiled.warm()
    _ready.append(compiled)
    return compiled

"""The colours of figures and of the report, in one place.

1. `LIGHT` is what figures and paper use; `DARK` is what the report changes on a dark screen.
2. `pos` and `neg` tint what supports the outcome and works against it; a0 to a5 are answers, a6 other answers, a7 none.
3. Texts meet WCAG AA on their grounds, graphics 3 to 1, answers stay apart for every kind of sight: see the tests.
"""

from __future__ import annotations

LIGHT = {
    "bg": "#fdfdfc", "fg": "#1b1c1e", "dim": "#5c6066", "line": "#dcdcd8", "soft": "#f3f3f0", "link": "#1a5f9e",
    "floor": "#b0307a", "pos": "#1f77be", "neg": "#d0680c", "ink": ".52",
    "a0": "#1f77be", "a1": "#d55e00", "a2": "#1a9f58", "a3": "#7e1f64", "a4": "#735a28", "a5": "#8825df",
    "a6": "#8a8b8d", "a7": "#d3d5d8",
    "setup": "#8a7a5c", "plan": "#0c7fc4", "fact": "#00875f", "compute": "#5f7f99", "result": "#8a63d2",
    "uncertain": "#cc5c0c", "answer": "#b8528c", "check": "#8a6f00", "other": "#75787c",
}  # fmt: skip
DARK = {
    "bg": "#15171a", "fg": "#e4e5e6", "dim": "#a0a5ab", "line": "#34383d", "soft": "#1d2024", "link": "#7db7ec",
    "floor": "#f08cc0", "pos": "#2f7dc8", "neg": "#cd690a", "ink": ".66",
    "a0": "#3d8fd6", "a1": "#e06a10", "a2": "#8aeeb4", "a3": "#ac488e", "a4": "#e9d66e", "a5": "#794ce5",
    "a6": "#a3a4a6", "a7": "#3f4348",
    "setup": "#a8977a", "plan": "#3b9fe0", "fact": "#18a57a", "compute": "#7f9fb9", "result": "#a58ae0",
    "uncertain": "#e0761f", "answer": "#d07fb0", "check": "#b3952a", "other": "#8f9398",
}  # fmt: skip
SHORT = {
    "problem_setup": "setup",
    "plan_generation": "plan",
    "fact_retrieval": "fact",
    "active_computation": "compute",
    "result_consolidation": "result",
    "uncertainty_management": "uncertain",
    "final_answer_emission": "answer",
    "self_checking": "check",
}
CATEGORIES = {category: LIGHT[name] for category, name in SHORT.items()}

_CHANNELS = ("pos", "neg")  # CSS mixes these with an opacity, so they are given as channels


def style_sheet() -> str:
    """The palette as CSS variables; paper keeps the light one.

    >>> style_sheet().splitlines()[0]
    ':root { color-scheme: light dark; }'
    """
    dark = f"@media screen and (prefers-color-scheme: dark) {{\n{_block(DARK)}}}\n"
    return f":root {{ color-scheme: light dark; }}\n{_block(LIGHT)}{dark}"


def _block(colours: dict[str, str]) -> str:
    return f":root {{ {' '.join(f'--{name}: {_css(name, value)};' for name, value in colours.items())} }}\n"


def _css(name: str, value: str) -> str:
    return " ".join(str(int(value[i : i + 2], 16)) for i in (1, 3, 5)) if name in _CHANNELS else value

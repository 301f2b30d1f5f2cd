"""Inner loops of rollouts compiled by numba (`pip install 'anchors[fast]'`); `loops` says when they are used.

A row of a small model has some dozen keys of its own and draws from a few hundred tokens. As tensor calls that costs more in
calls, padding and scores written to memory than in arithmetic. The loops read every number once, and each row alone.
They may add in another order, as any batch does: draws that this could turn are decided in double precision (`ties`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from inspect import unwrap
from typing import Any

import numpy as np
from numba import njit

FAST = {"reassoc", "contract", "nsz", "arcp"}  # not "nnan" or "ninf": what a model returns is checked for both
SINGLE, WORD = np.float32, np.uint64
LOWEST = SINGLE(-1e30)


def loop(function: Callable[..., Any]) -> Any:
    """Compile a function on its first call, and keep the result beside this file; what checks types in tests is left out."""
    options = {"nogil": True, "fastmath": FAST, "error_model": "numpy"}
    try:
        return njit(cache=True, **options)(unwrap(function))
    except RuntimeError:  # no folder to keep it in can be written
        return njit(**options)(unwrap(function))


@loop
def _scores(query, keys, first, last, scale, softcap, scores, at):
    """Scores of keys [first, last) from `at` on, and the largest."""
    top = LOWEST
    for t in range(first, last):
        total = SINGLE(0)
        for w in range(len(query)):
            total += query[w] * keys[t, w]
        total *= scale
        if softcap > 0:
            total = softcap * math.tanh(total / softcap)
        scores[at + t - first] = total
        top = max(top, total)
    return top


@loop
def _add_values(out, values, first, last, weights, at):
    """Add values [first, last), weighted by what lies from `at` on; four at a time, so that `out` is read a fourth as often."""
    t = first
    while t + 4 <= last:
        i = at + t - first
        a, b, c, d = weights[i], weights[i + 1], weights[i + 2], weights[i + 3]
        for w in range(len(out)):
            out[w] += a * values[t, w] + b * values[t + 1, w] + c * values[t + 2, w] + d * values[t + 3, w]
        t += 4
    while t < last:
        for w in range(len(out)):
            out[w] += weights[at + t - first] * values[t, w]
        t += 1


@loop
def _exponentials(scores, count, top, power):
    """Put exp(score - top) in the place of the first `count` scores, within 3e-7 of it; returns their sum.

    It is 2^k exp(r) with |r| <= log(2) / 2: seven terms of the power series, and k put where a float keeps its exponent. Unlike
    calls of exp, both loops work on many numbers at once.
    """
    for t in range(count):
        x = max(scores[t] - top, SINGLE(-87))
        k = np.int32(x * SINGLE(1.442695) - SINGLE(0.5))
        r = x - SINGLE(k) * SINGLE(0.693359375) + SINGLE(k) * SINGLE(2.12194440e-4)
        series = (SINGLE(1 / 720) * r + SINGLE(1 / 120)) * r + SINGLE(1 / 24)
        series = (series * r + SINGLE(1 / 6)) * r + SINGLE(1 / 2)
        scores[t] = (series * r + SINGLE(1)) * r + SINGLE(1)
        power[t] = (k + np.int32(127)) << np.int32(23)
    total, powers = SINGLE(0), power.view(np.float32)
    for t in range(count):
        scores[t] *= powers[t]
        total += scores[t]
    return total


@loop
def attend(
    begin, end, order, query, key, value, own_keys, own_values, own, keys, values, trunk, scale, softcap, out, log_sum
):
    """Attention of the rows order[begin:end] [row, kv_head, group, width] over their own keys [row, kv_head, token, width],
    the last of which are `key` and `value` and are put there, and over some of `keys` [kv_head, column, width]; `own` and
    `trunk` [2, row] say from where up to where. Fills `out` and `log_sum`."""
    scores = np.empty((own[1] - own[0] + trunk[1] - trunk[0]).max(), dtype=np.float32)
    power = np.empty(len(scores), dtype=np.int32)
    _, heads, groups, _ = query.shape
    for r in order[begin:end]:
        a, b, c, d = own[0, r], own[1, r], trunk[0, r], trunk[1, r]
        for h in range(heads):
            own_keys[r, h, b - 1], own_values[r, h, b - 1] = key[r, h], value[r, h]
            for g in range(groups):
                q, o = query[r, h, g], out[r, h, g]
                top = max(
                    _scores(q, own_keys[r, h], a, b, scale, softcap, scores, 0),
                    _scores(q, keys[h], c, d, scale, softcap, scores, b - a),
                )
                total = _exponentials(scores, b - a + d - c, top, power)
                o[:] = 0
                _add_values(o, own_values[r, h], a, b, scores, 0)
                _add_values(o, values[h], c, d, scores, b - a)
                share = SINGLE(1) / total
                for w in range(len(o)):
                    o[w] *= share
                log_sum[r, h, g] = top + math.log(total)


@loop
def _uniform(stream, step, index):
    """`randomness.uniforms` for one number."""
    x = stream + (WORD(step) * WORD(1 << 20) + WORD(index) + WORD(1)) * WORD(0x9E3779B97F4A7C15)
    x = (x ^ (x >> WORD(30))) * WORD(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> WORD(27))) * WORD(0x94D049BB133111EB)
    x = x ^ (x >> WORD(31))
    return np.float64(x >> WORD(11)) * 2.0**-53


@loop
def sum_up(nodes, edges):
    """Fill every level of `sampling.Odds` from the one below it."""
    for row in nodes:
        for level in range(1, len(edges) - 1):
            below, start, half = edges[level - 1], edges[level], edges[level + 1] - edges[level]
            for j in range(half):
                row[start + j] = row[below + j]
            for j in range(start - below - half):
                row[start + j] += row[below + half + j]


@loop
def descend(nodes, edges, rows, streams, steps, first, margin, rounding):
    """`sampling._descend`: token ids, and which of them were too close to an edge."""
    ids, ties = np.zeros(len(rows), dtype=np.int64), np.zeros(len(rows), dtype=np.bool_)
    for i in range(len(rows)):
        row, j, tied = nodes[rows[i]], 0, False
        for level in range(len(edges) - 3, -1, -1):
            q = np.float64(row[edges[level] + j] / row[edges[level + 1] + j])
            u = _uniform(streams[i], steps[i], first + level)
            tied |= margin > 0 and abs(u - q) < 2 * margin * q * (1 - q) + rounding
            if u >= q:
                j += edges[level + 2] - edges[level + 1]
        ids[i], ties[i] = j, tied
    return ids, ties


def warm() -> None:
    """Compile every loop, or read it from where it is kept, for the types it is called with."""
    four, three, two = (np.ones((1,) * n, dtype=np.float32) for n in (4, 3, 2))
    own, none = (np.array([[0], [end]], dtype=np.int64) for end in (1, 0))
    attend(0, 1, none[0], four, three, three, four, four, own, three, three, none, SINGLE(1), SINGLE(0), four, three)
    edges, at = np.array([0, 1], dtype=np.int64), np.zeros(1, dtype=np.int64)
    sum_up(two, edges)
    descend(two, edges, at, at.astype(np.uint64), at.astype(np.uint64), 0, 0.0, 0.0)

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
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

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


def _line_of(_context, array, row, column):
    """Code that asks for the line of the cache array[row, column] lies in, without waiting for it.

    Asked for twice a token, a head of 32 numbers is all there when it is needed; of a wider one the processor fetches the rest.
    """

    def generate(context, builder, signature, given):
        held = context.make_array(signature.args[0])(context, builder, given[0])
        at = cgutils.get_item_pointer(context, builder, signature.args[0], held, list(given[1:]))
        byte, number = ir.IntType(8).as_pointer(), ir.IntType(32)
        asked = ir.FunctionType(ir.VoidType(), [byte, number, number, number])
        call = builder.module.declare_intrinsic("llvm.prefetch", [byte], asked)
        read, second_level, data = number(0), number(2), number(1)
        builder.call(call, [builder.bitcast(at, byte), read, second_level, data])
        return context.get_dummy_value()

    return types.void(array, row, column), generate


_fetch: Any = intrinsic(_line_of)


@loop
def _scores(query, keys, first, last, scale, softcap, scores, at, ahead):
    """Scores of keys [first, last) from `at` on, and the largest; asks for the same of `ahead` meanwhile."""
    top, middle = LOWEST, len(query) // 2
    for t in range(first, last):
        _fetch(ahead, t, 0)
        _fetch(ahead, t, middle)
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
def _add_values(out, values, first, last, weights, at, ahead):
    """Add values [first, last), weighted by what lies from `at` on; four at a time, so that `out` is read a fourth as often.
    Asks for the same of `ahead` meanwhile."""
    t, middle = first, len(out) // 2
    while t + 4 <= last:
        for x in range(t, t + 4):
            _fetch(ahead, x, 0)
            _fetch(ahead, x, middle)
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
    for place in range(begin, end):
        r, later = order[place], order[min(place + 1, end - 1)]
        a, b, c, d = own[0, r], own[1, r], trunk[0, r], trunk[1, r]
        for h in range(heads):
            ahead, next_head = (r, h + 1) if h + 1 < heads else (later, 0)
            own_keys[r, h, b - 1], own_values[r, h, b - 1] = key[r, h], value[r, h]
            for g in range(groups):
                q, o = query[r, h, g], out[r, h, g]
                top = max(
                    _scores(q, own_keys[r, h], a, b, scale, softcap, scores, 0, own_keys[ahead, next_head]),
                    _scores(q, keys[h], c, d, scale, softcap, scores, b - a, keys[next_head]),
                )
                total = _exponentials(scores, b - a + d - c, top, power)
                o[:] = 0
                _add_values(o, own_values[r, h], a, b, scores, 0, own_values[ahead, next_head])
                _add_values(o, values[h], c, d, scores, b - a, values[next_head])
                share = SINGLE(1) / total
                for w in range(len(o)):
                    o[w] *= share
                log_sum[r, h, g] = top + math.log(total)


@loop
def add_and_norm(x, more, weight, epsilon, out):
    """Add `more` to `x` [row, width], and put the RMS norm of the sum, times `weight`, into `out`."""
    width = x.shape[1]
    for r in range(len(x)):
        total = SINGLE(0)
        for w in range(width):
            x[r, w] += more[r, w]
            total += x[r, w] * x[r, w]
        scale = SINGLE(1) / math.sqrt(total / SINGLE(width) + epsilon)
        for w in range(width):
            out[r, w] = x[r, w] * scale * weight[w]


@loop
def rotate(x, cos, sin):
    """Rotary positions, in place: x [row, head, width] cos + rotate_half(x) sin."""
    half = x.shape[2] // 2
    for r in range(len(x)):
        for h in range(x.shape[1]):
            for w in range(half):
                low, high = x[r, h, w], x[r, h, w + half]
                x[r, h, w] = low * cos[r, 0, w] - high * sin[r, 0, w]
                x[r, h, w + half] = high * cos[r, 0, w + half] + low * sin[r, 0, w + half]


@loop
def copy_rows(held, sources, targets, counts):
    """Copy the first `counts` tokens of some rows of `held` [row, head, token, width] to others."""
    for i in range(len(sources)):
        for h in range(held.shape[1]):
            held[targets[i], h, : counts[i]] = held[sources[i], h, : counts[i]]


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
            left, right, total = row[below : below + half], row[below + half : start], row[start : start + half]
            for j in range(len(right)):
                total[j] = left[j] + right[j]
            for j in range(len(right), half):
                total[j] = left[j]


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
    add_and_norm(two, two, two[0], SINGLE(1), two)
    rotate(three, three, three)
    edges, at = np.array([0, 1], dtype=np.int64), np.zeros(1, dtype=np.int64)
    copy_rows(four, at, at, at)
    sum_up(two, edges)
    descend(two, edges, at, at.astype(np.uint64), at.astype(np.uint64), 0, 0.0, 0.0)

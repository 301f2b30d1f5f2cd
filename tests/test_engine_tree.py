"""What earlier rollouts computed: the same rollouts with and without it, fewer rows, bounded memory, no stale nodes."""

from __future__ import annotations

import gc
from dataclasses import replace

import numpy as np
import pytest
import torch

from anchors.models import engine, load_model, tree, trunks
from anchors.models.attention_pass import LayerCache
from anchors.models.base import Job, Sampling
from anchors.models.engine import Tally, draw
from anchors.models.row_pass import RowPass
from anchors.models.tree import NONE, Fed, Group, Strand, Tree, Walk

PEAKED = Sampling(0.05, 1.0, 12)


def loaded(folder):
    """A model without what its check has drawn."""
    model = load_model(folder)
    model.kept_trunks = None
    gc.collect()
    return model


def rounds(trace, *, n, blocked=()):
    """One round of jobs a sample, over the boundaries from the third."""
    edges = list(enumerate(trace.boundaries))[3:]
    return [[Job(trace.text, end, "t", k, s, blocked=blocked) for k, end in edges] for s in range(n)]


def adaptive(model, rounds, *, sampling=PEAKED, batch_size=256):
    """Draw rounds one after the other, in one stream that waits for each, and count the work."""
    found, tally = {}, Tally()

    def stream():
        yield None
        asked = 0
        for jobs in rounds:
            asked += len(jobs)
            yield from jobs
            while len(found) < asked:
                yield None

    for job, completion in draw(model, stream(), sampling=sampling, seed=0, batch_size=batch_size, tally=tally):
        found[job.position, job.sample] = completion
    return found, tally


def without_tree(model, rounds, monkeypatch, **options):
    with monkeypatch.context() as patch:
        patch.setattr(engine, "tree_of", lambda _: None)
        return adaptive(model, rounds, **options)


@pytest.mark.parametrize(
    "batch_size, architecture, blocked", [(4, "llama", False), (256, "gemma2", True), (9, "gpt2", True)]
)
def test_rounds_do_not_repeat_each_other_and_change_no_rollout(
    checkpoints, problem_trace, architecture, blocked, batch_size, monkeypatch
):
    jobs = rounds(problem_trace, n=6, blocked=(problem_trace.spans[1],) if blocked else ())
    options = {"sampling": replace(PEAKED, stop=(" 4",)), "batch_size": batch_size}
    plain, before = without_tree(loaded(checkpoints[architecture]), jobs, monkeypatch, **options)
    found, tally = adaptive(loaded(checkpoints[architecture]), jobs, **options)
    assert found == plain and tally.generated == before.generated
    assert tally.computed < 0.9 * before.computed


def test_a_sequence_is_fed_once_in_all_rounds(checkpoints, problem_trace):
    """As many rows as in a single round of all jobs, in which every distinct sequence is fed once."""
    model, jobs = loaded(checkpoints["llama"]), rounds(problem_trace, n=6)
    _, once = adaptive(model, [[job for part in jobs for job in part]])
    _, tally = adaptive(loaded(checkpoints["llama"]), jobs)
    assert tally.computed == once.computed
    _, again = adaptive(model, jobs)
    assert again.computed == 0, "and none at all when the same rollouts are drawn again"


@pytest.mark.parametrize("nodes", [0, 1, 7, 40])
def test_a_full_tree_takes_no_more_and_changes_no_rollout(checkpoints, problem_trace, nodes, monkeypatch):
    jobs = rounds(problem_trace, n=5)
    plain, _ = without_tree(loaded(checkpoints["llama"]), jobs, monkeypatch)
    model = loaded(checkpoints["llama"])
    adaptive(model, jobs[:1])
    grown = tree.tree_of(model)
    one = grown.bytes // len(grown)
    model = loaded(checkpoints["llama"])
    monkeypatch.setattr(engine, "BYTES", nodes * one)
    found, _ = adaptive(model, jobs)
    assert found == plain
    held = tree.tree_of(model)
    assert len(held) == nodes and held.bytes == nodes * one
    assert held.fed is None or len(held.fed.hidden) <= nodes


def test_a_stream_without_a_pause_records_nothing(checkpoints, problem_trace):
    model, jobs = loaded(checkpoints["llama"]), [job for part in rounds(problem_trace, n=6) for job in part]
    list(draw(model, jobs, sampling=PEAKED, seed=0, batch_size=256))
    assert len(tree.tree_of(model)) == 0
    adaptive(model, [jobs])
    assert len(tree.tree_of(model)) > 0


def test_changed_weights_and_hooks_leave_the_tree_out(checkpoints, problem_trace, monkeypatch):
    model, jobs = loaded(checkpoints["llama"]), rounds(problem_trace, n=4)
    first, _ = adaptive(model, jobs)
    old = tree.tree_of(model)
    handle = model.module.model.norm.register_forward_hook(lambda _m, _x, y: 1.5 * y)
    assert tree.tree_of(model) is None
    hooked, _ = adaptive(model, jobs)
    handle.remove()
    with torch.no_grad():
        model.module.model.norm.weight *= 1.5
    assert len(tree.tree_of(model)) == 0 and tree.tree_of(model) is not old
    changed, _ = adaptive(model, jobs)
    assert changed == hooked != first


def test_nodes_end_with_their_trunk(checkpoints, problem_trace, monkeypatch):
    model, jobs = loaded(checkpoints["llama"]), rounds(problem_trace, n=4)
    other = [[replace(job, text=job.text[:-9]) for job in part if job.end < len(job.text) - 9] for part in jobs]
    plain, _ = without_tree(model, other, monkeypatch)
    adaptive(model, jobs)
    held = tree.tree_of(model)
    before = len(held)
    assert before
    monkeypatch.setattr(trunks, "KEPT", 0)
    found, _ = adaptive(model, other)
    gc.collect()
    assert found == plain
    assert len(held) == 0 and held.fed is None


def fed(values):
    x = torch.tensor(values, dtype=torch.float32)
    return Fed(x[:, None], x[:, None, None, None].expand(-1, 2, 1, 1))


def test_a_walk_goes_on_known_tokens_and_lets_the_others_leave():
    class Text:
        def __init__(self):
            self.ids = [5, 6, 7]

    grown, text, other = Tree(10), Text(), Text()
    place = grown.place(text, 2)
    assert len({place, grown.place(text, 3), grown.place(other, 0), grown.place(other, 2), NONE}) == 5
    (a,) = grown.record(np.array([place]), np.array([3]), fed([30.0]), 1 << 20)
    b, c, none = grown.record(np.array([a, a, NONE]), np.array([4, 8, 4]), fed([34.0, 38.0, 9.0]), 1 << 20)
    assert none == NONE and grown.walk(place, [3, 8]) == c and grown.walk(place, [3, 9, 4]) == NONE
    walk = Walk(grown, {})
    walk.enter([Group(Strand(1, 2, [3]), np.arange(5), int(a)), Group(Strand(1, 2, [3, 4]), np.array([9]), int(b))])
    assert walk.hidden()[:, 0].tolist() == [30.0, 34.0] and walk.sizes.tolist() == [3, 4]
    left = walk.split(np.array([4, 8, 4, 2, 2, 1]), np.array([True, True, True, True, False, True]))
    assert [(g.strand.own, g.rollouts.tolist(), g.node) for g in left] == [([3, 2], [3], a), ([3, 4, 1], [9], b)]
    assert [walk.strand(r).own for r in range(2)] == [[3, 4], [3, 8]]
    assert walk.rollouts.tolist() == [0, 2, 1] and walk.row.tolist() == [0, 0, 1]
    run = RowPass([LayerCache(*torch.zeros(2, 1, 4, 1))])
    run.reserve(2, 3)
    grown.plant([(1, int(c))], run)
    assert run.own[0].keys[1, 0, :2, 0].tolist() == [30.0, 38.0]
    (d,) = grown.record(np.array([grown.place(other, 2)]), np.array([3]), fed([1.0]), 1 << 20)
    del text
    gc.collect()
    assert len(grown) == 1 and grown.find(grown.place(other, 2), 3) == d and grown.find(place, 3) == NONE
    recorded = grown.record(np.array([d, d]), np.array([1, 2]), fed([2.0, 3.0]), 1 << 20)
    assert set(recorded.tolist()) < {int(a), int(b), int(c)}, "the places of nodes that are gone are taken again"


def test_a_full_tree_lets_go_of_idle_trunks_only():
    class Text:
        def __init__(self):
            self.ids = [5, 6, 7]

    grown, idle, used, new = Tree(10), Text(), Text(), Text()
    walk, room = Walk(grown, {0: used}), 2 * (1 + 2) * 4
    (a,) = grown.record(np.array([grown.place(used, 2)]), np.array([3]), fed([1.0]), room)
    grown.record(np.array([grown.place(idle, 2)]), np.array([3]), fed([2.0]), room)
    grown.record(np.array([grown.place(new, 2)]), np.array([3]), fed([3.0]), room)
    assert grown.find(grown.place(idle, 2), 3) == NONE != grown.find(grown.place(new, 2), 3)
    assert grown.find(grown.place(used, 2), 3) == a, "another draw is on it, though it was used longest ago"
    del walk
    gc.collect()
    grown.record(np.array([grown.place(idle, 1)]), np.array([3]), fed([4.0]), room)
    assert grown.find(grown.place(used, 2), 3) == NONE

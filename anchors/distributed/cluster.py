"""Workers on a Ray cluster, and units handed to them until all are done.

1. Ask for as many workers as fit, or as were wanted; look again every second, since nodes come and go.
2. Give those that are there their next units, wait for the first thing to happen, and take it in: a result, a worker that
   has come, a failure, a loss.
3. A reference to a result is dropped with its worker, so a unit that goes out again is counted once whatever the lost one did.
"""

from __future__ import annotations

import logging
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from anchors.distributed.workers import Outcome, Place, Spec, Worker
from anchors.extras import require
from anchors.models.base import CapabilityError

if TYPE_CHECKING:
    from anchors.distributed.model import RayModel

logger = logging.getLogger(__name__)

How = Literal["found", "connected", "started"]
PULSE: Final = 1.0
"""Seconds between two looks at who is there."""
LOSSES: Final = 5
"""Workers a unit may lose before it is held to be the cause, and workers that may die at their start."""


@dataclass(eq=False, slots=True)
class Unit:
    """Work for one worker: `function(item, model, **options)`; how often its model failed and its worker was lost."""

    function: Callable[..., Any]
    item: Any
    options: Mapping[str, Any]
    failures: int = 0
    losses: int = 0


@dataclass(eq=False)
class Run:
    """Units of one call: `cut(workers)` makes the next one, `again` holds those that came back."""

    spec: Spec
    cut: Callable[[int], Unit | None]
    ahead: int
    again: deque[Unit] = field(default_factory=deque)

    def next(self, workers: int) -> Unit | None:
        return self.again.popleft() if self.again else self.cut(workers)


@dataclass(eq=False)
class Member:
    """A worker as the driver knows it: where it is once it said so, and the units it has, oldest first."""

    actor: Any
    hello: Any
    place: Place | None = None
    proven: bool = False
    units: dict[Any, tuple[Run, Unit]] = field(default_factory=dict)

    def count(self, run: Run) -> int:
        return sum(mine is run for mine, _ in self.units.values())


class Cluster:
    """Workers on a Ray cluster; a context manager that lets them go.

    `address` is "auto" (the running cluster, else a local one is started), or that of a cluster ("host:6379"). `workers` is
    how many to ask for, by default as many as fit, looked up anew while units run. `gpus_per_worker` may be a fraction: several
    replicas then share a GPU; by default 1 where the cluster has any. `resources` are custom ones. `unit` fixes the rollouts
    a slice has. `tries` are a unit's failures before its error is raised, `patience` the seconds without any worker.
    `cpu_seconds` is what workers have spent on units so far.

    Raises:
        MissingExtra: ray is not installed.
        ValueError: a share is impossible, or no cluster answers at the address.
    """

    def __init__(
        self,
        address: str = "auto",
        *,
        workers: int | None = None,
        cpus_per_worker: float = 1.0,
        gpus_per_worker: float | None = None,
        resources: Mapping[str, float] | None = None,
        unit: int | None = None,
        tries: int = 3,
        patience: float = 600.0,
    ) -> None:
        _check(workers=workers, cpus=cpus_per_worker, gpus=gpus_per_worker, unit=unit, tries=tries)
        self.ray, self.how = _connect(address)
        if gpus_per_worker is None:
            gpus_per_worker = float(any(node.get("GPU") for node in self.nodes()))
        self.need = {"CPU": cpus_per_worker, "GPU": gpus_per_worker, **(resources or {})}
        self.workers, self.unit, self.tries, self.patience = workers, unit, tries, patience
        self.team: list[Member] = []
        self.cpu_seconds = 0.0
        self._looked, self._stillborn = 0.0, 0
        self._seen = time.monotonic()
        actor = self.ray.remote(Worker)
        share = {"num_cpus": cpus_per_worker, "num_gpus": gpus_per_worker, "resources": dict(resources or {})}
        self._actor = actor.options(**share, max_restarts=0, scheduling_strategy="SPREAD")

    # -- who is there ------------------------------------------------------------------------------------------------------

    def nodes(self) -> list[dict[str, float]]:
        """The resources of every living node."""
        return [node["Resources"] for node in self.ray.nodes() if node["Alive"]]

    @property
    def capacity(self) -> int:
        """Workers the cluster has room for, other users aside."""
        asked = {name: amount for name, amount in self.need.items() if amount}
        return sum(
            min(int(node.get(name, 0.0) / share + 1e-6) for name, share in asked.items()) for node in self.nodes()
        )

    @property
    def size(self) -> int:
        """Workers that are there or can be."""
        return max(1, min(self.capacity, self.workers or self.capacity))

    def __str__(self) -> str:
        nodes = self.nodes()
        total = {name: sum(node.get(name, 0.0) for node in nodes) for name in ("CPU", "GPU")}
        kind = "a local Ray cluster was started" if self.how == "started" else "connected to a running Ray cluster"
        share = ", ".join(f"{amount:g} {name}" for name, amount in self.need.items() if amount)
        return (
            f"{kind}: {len(nodes)} nodes, {total['CPU']:g} CPUs, {total['GPU']:g} GPUs; room for {self.capacity} workers "
            f"of {share}"
        )

    def model(self, model: str | Callable[[], Any], **options: Any) -> RayModel:
        """A model of which every worker holds a replica; takes what `load_model` takes, or a function that returns a model."""
        from anchors.distributed.model import RayModel

        if not isinstance(model, str):
            return RayModel(self, Spec(f"function {id(model)} {time.monotonic_ns()}", model, options))
        local = Path(model).is_dir() and not model.startswith(("lab/", "server/"))
        source = str(Path(model).resolve()) if local else model  # a worker runs in another folder
        return RayModel(self, Spec(f"{source} {sorted(options.items())}", source, options, model))

    def _recruit(self) -> None:
        """Ask for the workers that are wanting; they come when there is room for them."""
        if time.monotonic() - self._looked < PULSE * min(2**self._stillborn, 64):
            return
        self._looked = time.monotonic()
        for _ in range(max(1, self.workers or self.capacity) - len(self.team)):
            actor = self._actor.remote(self.need["GPU"])
            self.team.append(Member(actor, actor.place.remote()))

    def _wait_for_someone(self) -> None:
        """Nobody is there: give up after `patience` seconds."""
        if any(member.place for member in self.team):
            self._seen = time.monotonic()
        elif time.monotonic() - self._seen > self.patience:
            raise CapabilityError(
                f"no worker with {self.need} came within {self.patience:g} s; the nodes have {self.nodes()}. Ask for less, or "
                "add nodes"
            )

    # -- what they do ------------------------------------------------------------------------------------------------------

    def results(
        self, spec: Spec, cut: Callable[[int], Unit | None], *, ahead: int = 1
    ) -> Iterator[tuple[Unit, Outcome]]:
        """Every unit `cut(workers)` makes until it makes none, with what it gave, as they finish.

        Raises:
            CapabilityError: no worker came, workers die at their start, or a unit lost `LOSSES` of them.
            Exception: what a unit's model raised: at once where it refused (ValueError, CapabilityError), else after `tries`.
        """
        run = Run(spec, cut, ahead)
        self._seen = time.monotonic()
        try:
            while self._hand_out(run):
                yield from self._collect(run)
        finally:
            self._forget(run)

    def call(self, spec: Spec, function: Callable[..., Any], item: Any, **options: Any) -> Any:
        """`function(item, model, **options)` on one worker."""
        units = iter([Unit(function, item, options)])
        ((_, outcome),) = self.results(spec, lambda _: next(units, None))
        return outcome.value

    def _hand_out(self, run: Run) -> bool:
        """Give those that are there their next units; whether anything is left to wait for."""
        self._recruit()
        there = [member for member in self.team if member.place]
        for depth in range(run.ahead):
            for member in there:
                if member.count(run) > depth or (depth and not member.proven):
                    continue
                unit = run.next(len(self.team))
                if unit is None:
                    return any(m.count(run) for m in self.team)
                ref = member.actor.run.remote(run.spec, unit.function, unit.item, unit.options)
                member.units[ref] = run, unit
        return True

    def _collect(self, run: Run) -> Iterator[tuple[Unit, Outcome]]:
        """Wait for a result, a new worker, a failure or a loss, whatever comes first."""
        owners = {member.hello: member for member in self.team if member.place is None}
        owners |= {ref: member for member in self.team for ref, (mine, _) in member.units.items() if mine is run}
        done, _ = self.ray.wait(list(owners), num_returns=1, timeout=PULSE)
        self._wait_for_someone()
        for ref in done:
            member, errors = owners[ref], self.ray.exceptions
            try:
                found = self.ray.get(ref)
            except errors.RayTaskError as error:
                self._failed(member, *member.units.pop(ref), error)
            except errors.RayError as error:
                self._lost(member, error)
            else:
                if ref is member.hello:
                    member.place, self._stillborn = found, 0
                else:
                    member.proven = True
                    self.cpu_seconds += found.cpu
                    yield member.units.pop(ref)[1], found

    def _failed(self, member: Member, run: Run, unit: Unit, error: Any) -> None:
        """Raise what a model raised, or try again elsewhere: a process whose GPU failed once may fail for ever."""
        cause = getattr(error, "cause", None) or error
        unit.failures += 1
        if isinstance(cause, ValueError | CapabilityError) or unit.failures >= self.tries:
            raise cause from error
        logger.warning("a unit failed on worker %s (%d of %d): %r", member.place, unit.failures, self.tries, cause)
        run.again.append(unit)
        self._dismiss(member)

    def _lost(self, member: Member, error: Exception) -> None:
        """A worker is gone; only the oldest of its units was being worked on."""
        reason = (str(error) or repr(error)).strip().splitlines()[0]
        logger.warning("lost worker %s: %s; %d units go out again", member.place, reason, len(member.units))
        self._dismiss(member)
        if member.place is None:
            self._stillborn += 1
            if self._stillborn >= LOSSES and not any(m.place for m in self.team):
                raise CapabilityError(f"{LOSSES} workers died at their start: {error}") from error
        for _, unit in list(member.units.values())[:1]:
            unit.losses += 1
            if unit.losses >= LOSSES:
                raise CapabilityError(f"a unit lost {LOSSES} workers, the last one so: {reason}") from error

    def _dismiss(self, member: Member) -> None:
        """Put a worker's units back, and ask for another one."""
        self.team.remove(member)
        self.ray.kill(member.actor)
        for run, unit in member.units.values():
            run.again.append(unit)
        if member.place is not None:
            self._looked = 0.0

    def _forget(self, run: Run) -> None:
        """Call back what a run still has out, where its caller did not want the rest."""
        for member in self.team:
            for ref in [ref for ref, (mine, _) in member.units.items() if mine is run]:
                del member.units[ref]
                if self.ray.is_initialized():
                    self.ray.cancel(ref)

    def close(self) -> None:
        """Let the workers go, and end a cluster that was started here."""
        team, self.team = self.team, []
        if not self.ray.is_initialized():
            return
        for member in team:
            self.ray.kill(member.actor)
        if self.how != "found":
            self.ray.shutdown()

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _check(*, workers: int | None, cpus: float, gpus: float | None, unit: int | None, tries: int) -> None:
    for name, value in (("workers", workers), ("unit", unit), ("tries", tries)):
        if value is not None and value < 1:
            raise ValueError(f"{name} is {value}; it must be at least 1")
    if not cpus > 0:
        raise ValueError(f"cpus_per_worker is {cpus}; a worker needs some of a CPU")
    if gpus is not None and (gpus < 0 or (gpus > 1 and gpus != int(gpus))):
        raise ValueError(f"gpus_per_worker is {gpus}; use a fraction of one GPU, or a whole number")


def _connect(address: str) -> tuple[Any, How]:
    """Ray, and how it was connected: found so, to a running cluster, or to a local one that was started.

    A cluster started here reports no usage, has no dashboard and listens on the loopback interface alone.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray = require("ray", extra="ray")
    if ray.is_initialized():
        return ray, "found"
    quiet = {"logging_level": logging.WARNING}
    try:
        ray.init(address, **quiet)
    except ConnectionError as error:
        if address != "auto":
            raise ValueError(f"no Ray cluster answers at {address!r}: {error}") from error
        ray.init(include_dashboard=False, _node_ip_address="127.0.0.1", **quiet)
        return ray, "started"
    return ray, "connected"

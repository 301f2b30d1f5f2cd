"""Coroutines beside a caller that may run a loop of its own, or none: one result, or a stream of them.

1. `run` waits for one result.
2. `Background` keeps a coroutine in a thread. What it finds goes through a bounded queue, so that a slow caller holds it up;
   what it is asked for may grow while it runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any


def run(make: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    """The result of a coroutine; where the caller (a notebook) already runs a loop, from a thread of its own."""
    from concurrent.futures import ThreadPoolExecutor

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(make())
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(lambda: asyncio.run(make())).result()


class Background:
    """The coroutine `make(self)` in a thread: it takes from `asked` and awaits `found`, the caller asks and reads.

    `room` results may wait for the caller.
    """

    def __init__(self, make: Callable[[Background], Coroutine[Any, Any, None]], *, room: int) -> None:
        self._make = make
        self._results: queue.Queue[Any] = queue.Queue(maxsize=room)
        self._asked: asyncio.Queue[Any] = asyncio.Queue()
        self._end, self._error = object(), None
        self._loop, self._task = asyncio.new_event_loop(), None
        self._thread = threading.Thread(target=self._main, daemon=True)
        self._thread.start()

    # -- what the coroutine calls ----------------------------------------------------------------------------------

    async def asked(self) -> AsyncIterator[Any]:
        """What was asked for, each to one of those who iterate, until the caller has had enough."""
        while (what := await self._asked.get()) is not self._end:
            yield what
        self._asked.put_nowait(self._end)

    async def found(self, result: Any) -> None:
        """Hand a result to the caller, who may not have room yet."""
        await asyncio.to_thread(self._results.put, result)

    # -- what the caller calls -------------------------------------------------------------------------------------

    def ask(self, what: Any) -> None:
        """Hand over something to do; where the coroutine has ended, nobody takes it and `results` says why."""
        with contextlib.suppress(RuntimeError):  # its loop is closed
            self._loop.call_soon_threadsafe(self._asked.put_nowait, what)

    def enough(self) -> None:
        """Say that nothing more will be asked for."""
        self.ask(self._end)

    def results(self) -> Iterator[Any]:
        """Results as they come; where the coroutine failed, its error after those before it."""
        while (result := self._results.get()) is not self._end:
            yield result
        if self._error is not None:
            raise self._error

    def stop(self) -> None:
        """Cancel what runs and let a coroutine that waits for room go on."""
        while self._thread.is_alive():
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._cancel)
            with contextlib.suppress(queue.Empty):
                self._results.get(timeout=0.05)
        self._thread.join()

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()
            self._task = None  # once is enough

    def _main(self) -> None:
        try:
            with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
                runner.run(self._hold())
        except BaseExceptionGroup as group:
            self._error = next((e for e in group.exceptions if not isinstance(e, asyncio.CancelledError)), group)
        except BaseException as error:  # noqa: BLE001 - whatever it is, the caller waits for it
            self._error = error
        self._results.put(self._end)

    async def _hold(self) -> None:
        self._task = asyncio.current_task()
        await self._make(self)

"""Work in several processes, results in order: what takes one process down costs its own item and no other's.

A process is started anew (not forked: CUDA does not survive a fork), is given one item after another, and is replaced
when an item has failed in it, for after an error on a GPU nothing that the process says can be believed.
"""

from __future__ import annotations

import faulthandler
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Crash:
    """An item whose work raised an error, or ended its process; and how, in one line."""

    what: str


@dataclass(frozen=True, slots=True)
class InProcesses(Generic[Item, Result]):
    """`results(items)`: work(item) for each, in order, `jobs` at a time; a Crash for one that failed.

    work  a function of a module's top level: it, items and results are pickled
    jobs  the number of processes
    """

    work: Callable[[Item], Result]
    jobs: int

    def results(self, items: Iterable[Item]) -> Iterator[tuple[Item, Result | Crash]]:
        """Each item with its result, as soon as it and all before it are there."""
        idle: SimpleQueue[_Worker] = SimpleQueue()
        workers = [_Worker(number, self.jobs) for number in range(self.jobs)]
        for worker in workers:
            idle.put(worker)

        def run(item: Item) -> Result | Crash:
            worker = idle.get()
            try:
                return worker.result(self.work, item)
            finally:
                idle.put(worker)

        waiting: deque[tuple[Item, Future[Result | Crash]]] = deque()
        with ThreadPoolExecutor(self.jobs) as threads:
            try:
                for item in items:
                    waiting.append((item, threads.submit(run, item)))
                    while waiting and waiting[0][1].done():
                        yield waiting[0][0], waiting.popleft()[1].result()
                while waiting:
                    yield waiting[0][0], waiting.popleft()[1].result()
            finally:
                threads.shutdown(wait=False, cancel_futures=True)
                for worker in workers:
                    worker.stop()


class _Worker:
    """A process that runs one item at a time; it is started when it is first needed."""

    def __init__(self, number: int, jobs: int) -> None:
        self._number = number
        self._jobs = jobs
        self._running: tuple[Any, Connection] | None = None

    def result(self, work: Callable[[Any], Any], item: Any) -> Any:
        """What the process says of an item, or a Crash."""
        process, pipe = self._running or self._started()
        try:
            pipe.send((work, item))
            found = pipe.recv()
        except (EOFError, OSError):
            process.join()
            found = Crash(f"the process {_ended(process.exitcode)}")
        if isinstance(found, Crash):
            self.stop()
        return found

    def _started(self) -> tuple[Any, Connection]:
        context = get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs, self._number, self._jobs), daemon=True)
        process.start()
        theirs.close()
        self._running = process, ours
        return self._running

    def stop(self) -> None:
        """End the process, whatever it is at."""
        if self._running is None:
            return
        (process, pipe), self._running = self._running, None
        process.kill()
        process.join()
        pipe.close()


def _ended(status: int) -> str:
    if status >= 0:
        return f"ended with exit status {status}"
    name = signal.Signals(-status).name if -status in set(signal.Signals) else str(-status)
    return f"was ended by signal {name}"


def _serve(pipe: Connection, number: int, jobs: int) -> None:
    """What a process does, with its share of the cores and of the GPUs."""
    from attnlang.runtime.environment import take_share

    faulthandler.enable()  # where a process dies of a signal, standard error says at which line
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt is the parent's to deal with, which ends this one
    take_share(number, jobs)
    while True:
        try:
            work, item = pipe.recv()
        except EOFError:
            return
        try:
            pipe.send(work(item))
        except Exception as error:  # the parent tells of it
            pipe.send(Crash(crash_text(error)))


def crash_text(error: BaseException) -> str:
    """An error in one line, with what was noted about it."""
    lines = str(error).strip().splitlines()
    notes = "".join(f" ({note})" for note in getattr(error, "__notes__", ()))
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}{notes}"

"""What ranks tell each other before attention: whether all were called alike. Hosts wait for hosts, never for a device.

Every rank notes what it was called with and sends the digest of its note, eight bytes, to the others. Only where
digests differ are the notes themselves sent, and every rank raises the same error. Nothing was exchanged by then, so
the next call finds all ranks where they were.

This travels on gloo connections of its own, also where rows travel on gloo: it can meet no collective of somebody else,
and with NCCL, whose exchanges no host waits for, it is what notices within a timeout that a rank is gone. At most eight
ranks tell each other directly, in one hop and R - 1 messages a rank; more do so by doubling, in log2 R hops and as many
messages (12 for 4,096 ranks, where an all-reduce of gloo's takes 8,190 hops).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from time import monotonic
from typing import Any, Literal, NoReturn, TypeAlias
from weakref import WeakKeyDictionary

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore

from attnlang.parallel.wire import PeerLostError, RanksDisagreeError

When: TypeAlias = Literal["every call", "first call"]
DIRECT = 8
"""Up to so many ranks everyone tells everyone; this is also how long the word of a note is, or as many as there are."""
NOTHING = 0
"""The digest of a rank that cannot do what it was called for: it is no other's."""
FAULT = "fault"
"""The fact that a rank cannot do what it was called for, and why."""
LEFT = "left"
"""The word of a rank that left, in the store by which the hosts found each other."""
KINDS = 64
"""Notes of so many kinds of calls (shapes, dtypes, scales) are kept."""
SHORTEST = timedelta(milliseconds=1)
PATIENCE = timedelta(seconds=5)
"""How long a rank that was interrupted stays for the others to hear of it, before it leaves word and goes."""


@dataclass(frozen=True, eq=False, slots=True)
class Note:
    """What a rank was called with.

    facts   by name
    digest  of them, as a number; `NOTHING` where they hold a fault
    word    int64 (min(R, DIRECT),), the digest so many times: what is sent to R ranks
    """

    facts: Mapping[str, str]
    digest: int
    word: Tensor

    @staticmethod
    def of(facts: Mapping[str, str], ranks: int) -> Note:
        kept = dict(sorted(facts.items()))
        found = hashlib.sha256(json.dumps(kept).encode()).digest()[:7]
        digest = NOTHING if FAULT in kept else int.from_bytes(found, "big") + 1
        return Note(kept, digest, torch.full((min(ranks, DIRECT),), digest, dtype=torch.int64, device="cpu"))

    @staticmethod
    def refusal(facts: Mapping[str, str], error: BaseException, ranks: int) -> Note:
        """The note of a rank that cannot do what it was called for."""
        text = f"{type(error).__name__}: {error}".removesuffix(": ")
        return Note.of({**facts, FAULT: str(error) if isinstance(error, ValueError) else text}, ranks)


class Hosts:
    """The hosts of a group's ranks. Once one of them is lost they are of no use, and say so at every call.

    exchanges  how many exchanges of rows this rank has begun on the group. Ranks compare that too: one that failed
               alone in the middle of a call, and goes on, is out of step: it would take rows of that call for the next
    """

    def __init__(self, group: dist.ProcessGroup, timeout: timedelta) -> None:
        self.rank, self.ranks = group.rank(), group.size()
        self.exchanges = 0
        self._lost = ""
        self._line: Any = None
        if self.ranks > 1:
            self._store = _store(group)
            try:
                self._line = dist.ProcessGroupGloo(self._store, self.rank, self.ranks, timeout)
            except RuntimeError as error:
                self._lost = f"hosts did not connect (by gloo: GLOO_SOCKET_IFNAME names the interface): {error}"

    def asked(self, note: Note, timeout: timedelta) -> Callable[[], bool]:
        """Ask all ranks whether they bring this note. What is given back waits for their answers, the same on all."""
        if self.ranks == 1:
            return lambda: note.digest != NOTHING
        if self._line is None:
            self.fail(timeout)
        word = note.word if note.digest == NOTHING else note.word + self.exchanges
        if self.ranks > DIRECT:
            return lambda: self._by_doubling(word, timeout)
        heard = torch.empty_like(word)
        try:
            work = self._line.alltoall_base(heard, word, [], [], timeout)
        except RuntimeError as error:
            self.fail(timeout, error)
        return lambda: self._heard(work, heard, word, timeout)

    def _heard(self, work: Any, heard: Tensor, word: Tensor, timeout: timedelta) -> bool:
        work.wait(timeout)
        said = word.tolist()
        return said[0] != NOTHING and heard.tolist() == said

    def _by_doubling(self, word: Tensor, timeout: timedelta) -> bool:
        """In round i a rank hears from the one 2^i before it, and so of 2^i ranks: their word, or NOTHING if two.

        Whoever hears a word that is not its own passes NOTHING on: since all hear of all, all come to know.
        """
        word = word[:1]
        heard = torch.empty_like(word)
        end = monotonic() + timeout.total_seconds()
        step = 1
        while step < self.ranks:
            sent = self._line.send([word], (self.rank + step) % self.ranks, 0)
            for work in (self._line.recv([heard], (self.rank - step) % self.ranks, 0), sent):
                work.wait(max(timedelta(seconds=end - monotonic()), SHORTEST))
            if not torch.equal(heard, word):
                word = torch.full_like(word, NOTHING)
            step *= 2
        return int(word) != NOTHING

    def told(self, note: Note, timeout: timedelta) -> list[dict[str, str]]:
        """The facts of all ranks, on every rank."""
        facts = {**note.facts, "exchanges so far": str(self.exchanges)}
        if self.ranks == 1:
            return [facts]
        data = torch.frombuffer(bytearray(json.dumps(facts).encode()), dtype=torch.uint8)
        sizes = [int(size) for size in self._gathered(torch.tensor([len(data)], device="cpu"), timeout)]
        padded = torch.zeros(max(sizes), dtype=torch.uint8, device="cpu")
        padded[: len(data)] = data
        rows = self._gathered(padded, timeout)
        return [json.loads(bytes(row[:size].tolist())) for row, size in zip(rows, sizes, strict=True)]

    def _gathered(self, mine: Tensor, timeout: timedelta) -> list[Tensor]:
        found = [torch.empty_like(mine) for _ in range(self.ranks)]
        self._line.allgather(found, mine, timeout).wait(timeout)
        return found

    def lose(self, error: RuntimeError) -> None:
        """Hang up, so that the others notice at once, and not when their time is over."""
        self._lost = self._lost or str(error)
        self._line = None

    def fail(self, timeout: timedelta, error: RuntimeError | None = None) -> NoReturn:
        """Raises PeerLostError: now, where the backend has just failed, or again."""
        if error is not None:
            self.lose(error.with_traceback(None))  # (its frames would hold the line as long as someone holds the error)
        raise PeerLostError(
            f"rank {self.rank} of {self.ranks}: not all ranks came to this call within {timeout}: one is gone, "
            f"is in another collective, or is not as far (see the first error among the ranks). No later call on this "
            f"group will run. {self._left()}The backend says: {self._lost}"
        ) from error

    def leave(self, note: Note) -> None:
        """Hang up, and leave word why with the group's store: others may be long in coming, as while they plan."""
        with suppress(RuntimeError):  # (the store may be gone as well)
            self._store.set(LEFT, f"rank {self.rank}: {note.facts[FAULT]}")
        self.lose(RuntimeError(f"this rank has left: {note.facts[FAULT]}"))

    def _left(self) -> str:
        """What the last rank said that left, as the end of a message."""
        with suppress(RuntimeError):
            if self._store.check([LEFT]):
                return f"Of a rank that left there is word, {self._store.get(LEFT).decode()}. "
        return ""


def _store(group: dist.ProcessGroup) -> PrefixStore:
    """What ranks of a group find each other by, for a gloo backend beside it that nobody else knows.

    `dist.new_group` would need every rank of the world, or (use_local_synchronization) a name that ranks make from how
    many groups each is in. The group's own store is known to its ranks, and to them alone; how often a rank came to it
    for this counts up there, so that what an earlier backend left in a store that outlives it is not read again.
    """
    store = group.get_group_store()
    return PrefixStore(f"attnlang/{store.add(f'attnlang/lines of {group.rank()}', 1)}", store)


_hosts: WeakKeyDictionary[dist.ProcessGroup, Hosts] = WeakKeyDictionary()


def hosts_of(group: dist.ProcessGroup, timeout: timedelta) -> Hosts:
    """The hosts of a group, the same for all modules on it. The first time, all its ranks come within the timeout."""
    found = _hosts.get(group)
    if found is None:
        found = _hosts[group] = Hosts(group, timeout)
    return found


class Agreement:
    """A comparison of notes that is under way: begun early, and settled before anything is exchanged.

    As a context it is settled at its end at the latest, also where this rank fails within: the others are told then.
    """

    def __init__(self, note: Note, hosts: Hosts, timeout: timedelta, agreed: set[int] | None = None) -> None:
        """What ranks agree on is put to `agreed`, and not compared where it is there."""
        self._note, self._hosts, self._timeout, self._agreed = note, hosts, timeout, agreed
        self._answer: Callable[[], bool] | None = None
        if agreed is None or note.digest not in agreed:
            self._answer = hosts.asked(note, timeout)

    def settle(self) -> None:
        """Go on if all ranks bring the same note, without a fault. Raises PeerLostError.

        Raises RanksDisagreeError otherwise, on every rank and in the same words.
        """
        if self._answer is None:
            return
        try:
            told = [] if self._answer() else self._hosts.told(self._note, self._timeout)
        except RuntimeError as error:
            self._answer = None
            self._hosts.fail(self._timeout, error)
        self._answer = None
        if told:
            raise RanksDisagreeError(disagreement(told))
        if self._agreed is not None:
            if len(self._agreed) >= KINDS:
                self._agreed.clear()
            self._agreed.add(self._note.digest)  # (where ranks agreed, and so the same on all of them)

    def __enter__(self) -> Agreement:
        return self

    def __exit__(self, *_: object) -> None:
        self.settle()


def refuse(facts: Mapping[str, str], error: BaseException, hosts: Hosts, timeout: timedelta) -> None:
    """Tell the other ranks what keeps this one from what all were called for. Raises RanksDisagreeError, as they do.

    Returns where it is an interrupt, which goes on as it is: whoever pressed a key wants this rank to end, and so it
    waits for the others for `PATIENCE` at most, and leaves word for those that come later.
    """
    note = Note.refusal(facts, error, hosts.ranks)
    if isinstance(error, Exception):
        Agreement(note, hosts, timeout).settle()
        return
    try:
        Agreement(note, hosts, min(timeout, PATIENCE)).settle()
    except RanksDisagreeError:
        return
    except PeerLostError:
        hosts.leave(note)


@contextmanager
def alike(name: str, group: dist.ProcessGroup, timeout: timedelta) -> Generator[dict[str, str]]:
    """Around what every rank does for itself, and what all of them must come out of: with the same facts, noted here.

    An error within goes on here as it is, and is a RanksDisagreeError on the others; other facts are one on every rank.
    """
    hosts, facts = hosts_of(group, timeout), {"pass": name}
    try:
        yield facts
    except BaseException as error:
        with suppress(RanksDisagreeError, PeerLostError):
            refuse(facts, error, hosts, timeout)
        raise
    Agreement(Note.of(facts, hosts.ranks), hosts, timeout).settle()


def disagreement(told: Sequence[Mapping[str, str]]) -> str:
    """What does not fit, by the facts that each rank tells: faults first, then what differs among those that say it."""
    faults = [f"{where}: {text}" for text, where in _where(told, FAULT)]
    names = sorted({name for facts in told for name in facts} - {FAULT})
    different = {name: where for name in names if len(where := _where(told, name)) > 1}
    parts = [
        f"{name}: {', '.join(f'{value} on {ranks}' for value, ranks in where)}" for name, where in different.items()
    ]
    if parts:
        faults.append(f"ranks differ in {'; '.join(parts)}")
    return ". ".join([*faults, "All must be called alike"] if parts else faults)


def _where(told: Sequence[Mapping[str, str]], name: str) -> list[tuple[str, str]]:
    """Each value of a fact, and on which ranks it is so."""
    found: dict[str, list[int]] = {}
    for rank, facts in enumerate(told):
        if name in facts:
            found.setdefault(facts[name], []).append(rank)
    return [(value, _listed(ranks, len(told))) for value, ranks in found.items()]


def _listed(ranks: list[int], of: int) -> str:
    if len(ranks) == of > 1:
        return "every rank"
    shown = ", ".join(map(str, ranks[:8])) + (f" and {len(ranks) - 8} more" if len(ranks) > 8 else "")
    return f"rank {shown}" if len(ranks) == 1 else f"ranks {shown}"

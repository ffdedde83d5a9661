"""From a plan and a placement to transfers: every ordered pair of ranks gets its least cover.

Structure, not enumeration: two ordered pairs of ranks that look alike (the same residues of where they begin, the same
lengths, the same distance as far as the pattern can see) have the same transfer, and one of them is solved.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from operator import add
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attnc.schedule.alike import reach
from attnc.schedule.coarse import coarse, refined
from attnc.schedule.counts import inner_pairs, local_pairs
from attnc.schedule.covers import Cover, at_query_home, every_key, least_cover
from attnc.schedule.families import Kinds
from attnc.schedule.grids import grid_of
from attnc.schedule.owners import count_owned
from attnc.schedule.pictures import head_rows, picture_of
from attnc.schedule.progressions import tidied
from attnc.schedule.represented import Represented, labelled, represented
from attnc.schedule.residues import Residues
from attnc.schedule.sides import Later, can_tell, meetings
from attnc.schedule.solution import NOTHING, Picture, Problem, Solution
from attnc.schedule.tally import Told, count_distances, count_meetings
from attnc.schedule.tiled import Met, Tiled
from attnlang.plan import Columns, Lattice
from attnlang.rows import Rows
from attnlang.runtime.pairs import Pairs, branch_pairs
from attnlang.schedule import Certificate, HeadRows, Transfer

Array = NDArray[Any]


def solve(problem: Problem, gathered: Sequence[int] = ()) -> Solution:
    """The least covers of all ordered pairs of ranks, but for the branches that are gathered, which owners compute."""
    among_rows = None if gathered else coarse(problem)
    if among_rows is not None:
        return refined(problem, solve(among_rows.problem), among_rows)
    ranks = problem.placement.ranks
    solution = Solution(problem, tuple(gathered), which=np.full((ranks, ranks), -1, np.int32))
    for name in ("local", "at_query", "at_key", "owned"):
        setattr(solution, name, np.zeros(ranks))
    for name in ("keys_in", "keys_out", "queries_in", "queries_out"):
        setattr(solution, name, np.zeros(ranks, np.int64))
    solution.kinds = [set() for _ in problem.plan.branches]
    _Solver(problem, solution).run()
    return solution


@dataclass(frozen=True, eq=False, slots=True)
class _Moved:
    """A picture, the number of its transfer, and how many rows that moves."""

    picture: Picture
    number: int
    key_rows: int
    query_rows: int


class _Solver:
    def __init__(self, problem: Problem, solution: Solution) -> None:
        self.problem = problem
        self.solution = solution
        self.placement = problem.placement
        self.branches = [i for i in range(len(problem.plan.branches)) if i not in solution.gathered]
        branches = problem.plan.branches
        self.lattices = [i for i in self.branches if isinstance(branches[i], Lattice | Columns)]
        self.alike = problem.alike(self.lattices)
        self.grid = grid_of(problem, self.branches)
        known = None if self.grid is None else self.grid.kinds
        self.kinds = problem.kinds(self.branches) if known is None else known
        self.tiled = None if self.kinds is not None else problem.tiled(self.branches)
        self.numbers: dict[Transfer, int] = {}
        self.moved: dict[int, _Moved] = {}
        self.pictures: dict[Any, Picture] = {}
        self.of_tiles: dict[int, tuple[Met, Picture]] = {}
        self.left: dict[tuple[int, int], None] = {}  # pairs of ranks with tiles that are still to be covered
        if self.tiled is not None:
            self.left = dict.fromkeys((int(a), int(b)) for a, b in np.argwhere(self.tiled.has))
        self.beside: list[Picture] = []  # of lattices, where there are tiles as well: by number, from 1
        self.which_beside: NDArray[np.int32] | None = None
        self.weight = self.bound = 0

    def run(self) -> None:
        if self.problem.counted:
            self._local()
        for number in self.solution.gathered:
            count_owned(self.solution, number)
        if self.kinds is None and self.tiled is None and can_tell(self.problem, self.lattices):
            self._at_once()
        else:
            for distance in self._distances():
                self._pairs_at(distance)
        if self.tiled is not None:
            self.tiled.cover(self.problem.weights, list(self.left))
            for a, b in self.left:
                self._count(self._tiled(self.tiled, a, b), np.array([a]), np.array([b]), b - a)
        if self.kinds is not None:
            self._represented(self.kinds)
        self.solution.certificate = Certificate(self.weight, self.bound)

    def _local(self) -> None:
        plan = self.problem.plan
        self.solution.local += local_pairs(plan, self.lattices, self.placement, self.alike.whole.kinds)
        for number in self.solution.gathered:
            self.solution.local += inner_pairs(plan.branches[number], self.placement)
        if self.tiled is not None:
            self.solution.local += self.tiled.local

    def _distances(self) -> Iterator[int]:
        """B - a for which ranks a and b can have anything to do with each other."""
        ranks = self.placement.ranks
        down = up = ranks - 1
        if self.placement.kind == "contiguous":
            shortest = max(1, min(self.placement.sizes[:-1], default=1))
            plan = self.problem.plan
            reaches = [reach(plan.branches[i]) for i in self.lattices]
            down, up = (
                min(ranks - 1, -(-max((ends[side] for ends in reaches), default=0) // shortest)) for side in (0, 1)
            )
        return (d for d in range(-down, up + 1) if d)

    def _queries_at(self, distance: int) -> Array:
        """The ranks a that have a rank a + distance."""
        ranks = self.placement.ranks
        return np.arange(max(0, -distance), min(ranks, ranks - distance))

    def _at_once(self) -> None:
        """All meetings side by side, but for those that a band cuts, which are looked at one by one."""
        s, distances = self.solution, list(self._distances())
        first: dict[Any, tuple[int, int]] = {}
        label: dict[Any, int] = {}
        for distance in distances:
            for key, queries in self.alike.groups(self._queries_at(distance), distance):
                first.setdefault(key, (int(queries[0]), int(queries[0]) + distance))
                s.which[queries, queries + distance] = label.setdefault(key, len(label))
        found = meetings(self.problem, self.lattices, *np.array(list(first.values()), np.int64).reshape(-1, 2).T)
        apart = [(number, key) for number, key in enumerate(first) if not found.known[number]]
        pictures = {number: self._picture(key, *first[key]) for number, key in apart}
        keys = list(first)

        def drawn(number: int) -> Picture:
            return self._picture(keys[number], *first[keys[number]])

        told = found.told.replaced(pictures)
        some = np.flatnonzero(told.weight)
        told.number[:] = -1  # what may have pairs as far as two ranks see need have none
        told.number[some] = np.arange(len(some))
        self._weigh(count_distances(s, distances, told))
        s.later = Later(found, pictures, some, drawn)

    def _pairs_at(self, distance: int) -> None:
        for key, queries in self.alike.groups(self._queries_at(distance), distance):
            first = int(queries[0])
            picture = self.pictures.get(key)
            if picture is None:
                picture = self.pictures[key] = self._picture(key, first, first + distance)
            if picture.transfer is NOTHING:
                continue
            if self.kinds is not None:
                has = self.kinds[queries, queries + distance] > 0
                if has.any():
                    self._set_beside(self.kinds, picture, queries[has], distance)
                queries = queries[~has]
            elif self.tiled is not None:
                has = self.tiled.has[queries, queries + distance]
                for rank in queries[has].tolist():
                    self._with_tiles(self.tiled, picture, rank, rank + distance)
                queries = queries[~has]
            self._count(picture, queries, queries + distance, distance)

    def _with_tiles(self, tiled: Tiled, picture: Picture, a: int, b: int) -> None:
        """Where the rows that lattices need cover the tiles as well, nothing less covers both: done with them."""
        both = self._covering(tiled, picture, a, b)
        if both is not None:
            del self.left[a, b]
            self._count(both, np.array([a]), np.array([b]), b - a)

    def _covering(self, tiled: Tiled, picture: Picture, a: int, b: int) -> Picture | None:
        if picture.weight != picture.bound and not self.problem.queries_stay:
            return None
        more = tiled.covered(a, b, picture.transfer)
        if more is None:
            return None
        here, there = (tuple(map(add, *pair)) for pair in zip((picture.at_query, picture.at_key), more, strict=True))
        return replace(picture, at_query=here, at_key=there)

    # by kinds of meetings -------------------------------------------------------------------------------------------

    def _set_beside(self, kinds: Kinds, picture: Picture, a: Array, distance: int) -> None:
        if self.which_beside is None:
            self.which_beside = np.zeros(kinds.shape, np.int32)
        self.beside.append(picture)
        self.which_beside[a, a + distance] = len(self.beside)

    def _represented(self, kinds: Kinds) -> None:
        """One meeting of each kind is covered for all of them."""
        done, local = self._by_columns(kinds)
        pictures = {label: picture_of(met) for label, met in done.items() if met.weight}
        labels, first = labelled(kinds, self.which_beside)
        if local is None or len(done) < len(first):
            found = represented(self.problem, tuple(self.branches), kinds, self.which_beside, done)
            local = found.local
            pictures |= self._among(found, [label for label in range(1, len(first) + 1) if label not in done])
        if self.problem.counted:
            self.solution.local += local
        some = sorted(pictures)
        name = np.zeros(len(first) + 1, np.int32)  # what may have pairs as far as its term says need have none
        name[some] = np.arange(1, len(some) + 1)
        chosen = [pictures[label] for label in some]
        numbers = [self._moved(picture).number for picture in chosen]
        told = Told.of(chosen, numbers, len(self.problem.plan.branches))
        self._weigh(count_meetings(self.solution, name[labels], told))

    def _by_columns(self, kinds: Kinds) -> tuple[dict[int, Met], Array | None]:
        """Meetings on a grid by label, and the pairs of each rank with itself, as far as they are found so."""
        if self.grid is None:
            return {}, None
        met = self.grid.meetings(labelled(kinds)[1], queries_stay=self.problem.queries_stay)
        return met, self.grid.local(kinds)

    def _among(self, found: Represented, labels: Sequence[int]) -> dict[int, Picture]:
        """Meetings by label, planned among the ranks that stand for others."""
        pictures: dict[int, Picture] = {}
        left: list[int] = []
        for label in labels:
            place, (a, b) = found.place(label), found.first[label - 1]
            number = 0 if self.which_beside is None else int(self.which_beside[a, b])
            both = self._covering(found.tiled, self.beside[number - 1], *place) if number else None
            if both is not None:
                pictures[label] = both
            elif number or found.tiled.has[place]:
                left.append(label)
        found.tiled.cover(self.problem.weights, [found.place(label) for label in left])
        return pictures | {label: self._tiled(found.tiled, *found.place(label)) for label in left}

    def _weigh(self, found: tuple[int, int]) -> None:
        self.weight += found[0]
        self.bound += found[1]

    # what is counted ------------------------------------------------------------------------------------------------

    def _count(self, picture: Picture, a: Array, b: Array, distance: int) -> None:
        s, moved = self.solution, self._moved(picture)
        s.which[a, b] = moved.number
        self.weight += picture.weight * len(a)
        self.bound += picture.bound * len(a)
        s.at_query[a] += sum(picture.at_query)
        s.at_key[b] += sum(picture.at_key)
        s.keys_in[a] += moved.key_rows
        s.keys_out[b] += moved.key_rows
        s.queries_out[a] += moved.query_rows
        s.queries_in[b] += moved.query_rows
        for number, (here, there) in enumerate(zip(picture.at_query, picture.at_key, strict=True)):
            if here or there:
                near = "near" if abs(distance) == 1 and self.placement.kind == "contiguous" else "far"
                s.kinds[number] |= {near} | ({"keys"} if here else set()) | ({"queries"} if there else set())

    def _moved(self, picture: Picture) -> _Moved:
        """The transfer of a picture by its number, with its rows."""
        found = self.moved.get(id(picture))
        if found is None:
            t = picture.transfer
            found = self.moved[id(picture)] = _Moved(picture, self._number(t), t.key_rows, t.query_rows)
        return found

    def _number(self, transfer: Transfer) -> int:
        number = self.numbers.get(transfer)
        if number is None:
            number = self.numbers[transfer] = len(self.solution.transfers)
            self.solution.transfers.append(transfer)
        return number

    def _picture(self, key: Any, a: int, b: int) -> Picture:
        plan, group = self.problem.plan, self.problem.group
        q_chunks, k_chunks = self.placement.chunks[a], self.placement.chunks[b]
        classes = {i: Residues.of(plan.branches[i], q_chunks, k_chunks) for i in self.lattices}
        whole = {i: found for i, found in classes.items() if found is not None and found.kinds}
        of_branch = [
            self._pairs(i, a, b) if i in classes and classes[i] is None else [] for i in range(len(plan.branches))
        ]
        if len(whole) == 1 and not any(of_branch):
            return self._of_classes(*whole.popitem(), a, b)
        for number in whole:
            of_branch[number] = self._pairs(number, a, b)
        every = [pairs for found in of_branch for pairs in found]
        if not every:
            return Picture(NOTHING, 0, 0, (), ())
        cover = self._cover(key, every)
        if self.problem.queries_stay:
            cover = replace(cover, keys=tuple(every_key(every, group)), queries=())
        totals = [sum(pairs.count for pairs in found) for found in of_branch]
        here = [at_query_home(found, cover, group) for found in of_branch]
        there = tuple(float(total - at) for total, at in zip(totals, here, strict=True))
        keys = self._local_rows(b, cover.keys)
        queries = self._local_rows(a, cover.queries)
        return Picture(Transfer(keys, queries), cover.weight, cover.bound, tuple(map(float, here)), there)

    def _pairs(self, number: int, a: int, b: int) -> list[Pairs]:
        branch = self.problem.plan.branches[number]
        assert isinstance(branch, Lattice | Columns)
        chunks = self.placement.chunks
        return [pairs for q in chunks[a] for k in chunks[b] for pairs in branch_pairs(branch, q, k)]

    def _of_classes(self, number: int, residues: Residues, a: int, b: int) -> Picture:
        known = self.problem.classes.setdefault(number, {})
        cover, total, here = residues.cover(self.problem.group, self.problem.weights, self.problem.queries_stay, known)
        there = [0.0] * len(self.problem.plan.branches)
        at = there.copy()
        at[number], there[number] = float(here), float(total - here)
        transfer = Transfer(self._local_rows(b, cover.keys), self._local_rows(a, cover.queries))
        return Picture(transfer, cover.weight, cover.bound, tuple(at), tuple(there))

    def _cover(self, key: Any, every: Sequence[Pairs]) -> Cover:
        """The least cover of all pairs of two ranks, for this solution and those of the same problem that follow."""
        found, name = self.problem.covers, (tuple(self.lattices), key)
        if name not in found:
            found[name] = least_cover(every, self.problem.group, *self.problem.weights)
        return found[name]

    def _local_rows(self, rank: int, nodes: Sequence[tuple[int, Rows]]) -> tuple[HeadRows, ...]:
        return head_rows(tidied(part for node in nodes for part in self._local_parts(rank, *node)))

    def _local_parts(self, rank: int, head: int, tokens: Rows) -> Iterator[tuple[int, Rows]]:
        for base, chunk in self.placement.based(rank):
            part = tokens & chunk
            if part is not None:
                yield head, chunk.numbered(part, base)

    def _tiled(self, tiled: Tiled, a: int, b: int) -> Picture:
        met = tiled.between(a, b, self.problem.weights, self.problem.queries_stay)
        if id(met) not in self.of_tiles:
            self.of_tiles[id(met)] = met, picture_of(met)
        return self.of_tiles[id(met)][1]

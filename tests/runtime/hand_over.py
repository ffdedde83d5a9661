"""How `warp_specialize` hands worker warps their part, in PTX: one byte a warp, in shared memory, between barriers.

compute-sanitizer's racecheck reports these bytes as hazards and nothing else (docs/kernels.md). What it does not see is
shown here instruction by instruction: with W the warps that were there first,

    W        write parts   barrier 1                ..                  barrier 1   write 'return'   barrier 1
    workers                barrier 1   read   barrier 1   their part    barrier 1                    barrier 1   read

where barrier 1 is one that all threads of the program wait at. So no byte is read and written between two barriers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

BARRIER = "barrier.sync 1;"
LABEL = re.compile(r"\$L__BB\d+_\d+:")
READ = re.compile(r"ld\.shared\.[bu]8 ")
WRITE = re.compile(r"st\.shared(\.v[24])?\.b32 \[global_smem\+?\d*\], (\{\d+(, \d+)+\}|\d+);")
ELSEWHERE = re.compile(r"bra|@|ret|brx|\$")


def instructions(ptx: str) -> list[str]:
    """The instructions of the only kernel and its labels, with one blank between words.

    How many registers a warp may use (setmaxnreg) is left out.
    """
    body = ptx[ptx.index(".visible .entry") :]
    lines = (" ".join(line.split("//")[0].split()) for line in body.splitlines())
    return [
        line
        for line in lines
        if LABEL.fullmatch(line) or (line.endswith(";") and not line.startswith((".", "$", "setmaxnreg")))
    ]


def faults(ptx: str) -> Iterator[str]:
    """What is not as the top of the file says; nothing if all is."""
    code = instructions(ptx)
    if any(line.startswith(("barrier.sync 1,", "bar.sync 1,")) for line in code):
        yield "fewer than all threads wait at a barrier 1"
    reads = [i for i, line in enumerate(code) if READ.match(line)]
    if len(reads) != 1 or not _behind_a_barrier(code, reads[0]):
        yield f"{len(reads)} reads, where one behind a barrier should be"
    writes = _stretches([i for i, line in enumerate(code) if WRITE.match(line)])
    if len(writes) != 2:
        yield f"{len(writes)} stretches of writes, which should be two: parts, and 'return'"
    if code[writes[0][1] + 1 :][:2] != [BARRIER, BARRIER] or code[writes[-1][1] + 1] != BARRIER:
        yield "no barrier behind a write, or none before the work"
    if not _behind_a_barrier(code, writes[-1][0]):
        yield "no barrier before 'return' is written"
    for label in _targets(ptx):
        begin = code[code.index(f"{label}:") + 1]
        if begin not in (BARRIER, "ret;"):
            yield f"a part begins with {begin!r}, not with a barrier"
    top = next(line for line in reversed(code[: reads[0]]) if LABEL.fullmatch(line))
    ends = [code[i - 1] for i, line in enumerate(code) if line == f"bra.uni {top[:-1]};"]
    before = code[code.index(top) - 1]
    ends += [] if before.startswith(("bra.uni", "ret")) else [before]
    if sum(end != BARRIER for end in ends) > 1:  # (one way leads there from the beginning)
        yield "a part ends without a barrier"


def _behind_a_barrier(code: list[str], place: int) -> bool:
    """Whether a barrier comes before, with nothing in between but arithmetic."""
    between = range(place - 1, -1, -1)
    stop = next(i for i in between if code[i] == BARRIER or ELSEWHERE.match(code[i]) or "shared" in code[i])
    return code[stop] == BARRIER


def _stretches(places: list[int]) -> list[tuple[int, int]]:
    """First and last of places that follow one another."""
    found: list[tuple[int, int]] = []
    for place in places:
        if found and found[-1][1] == place - 1:
            found[-1] = found[-1][0], place
        else:
            found.append((place, place))
    return found


def _targets(ptx: str) -> list[str]:
    """Where the byte that was read leads."""
    found = re.search(r"\.branchtargets\s+([^;]*);", ptx)
    return [label.strip() for label in found.group(1).split(",")] if found else []


def weakened(ptx: str) -> Iterator[str]:
    """The same without one of the barriers around what is read and written: each must have faults."""
    read = re.search(r"ld\.shared\.[bu]8", ptx)
    assert read is not None
    yield _without(ptx, ptx.rindex("barrier.sync", 0, read.start()))
    writes = list(re.finditer(r"st\.shared(?:\.v[24])?\.b32\s+\[global_smem\+?\d*\], \{?\d", ptx))
    yield _without(ptx, ptx.rindex("barrier.sync", 0, writes[-1].start()))  # (before 'return')
    for write in writes:
        yield _without(ptx, ptx.index("barrier.sync", write.end()))


def _without(ptx: str, place: int) -> str:
    return f"{ptx[:place]}// {ptx[place:]}"

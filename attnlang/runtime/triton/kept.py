"""Launches that have been seen before: the compiled kernel and its arguments are kept, and addresses alone are new.

A kernel is compiled for what triton sees of its arguments (which of them are 1, or multiples of 16, or aligned), so it
looks at all of them at every launch; with a hundred arguments that takes longer than many a kernel runs. A `Call` holds
everything but addresses. So what triton saw at its first launch holds for the next ones too, provided that

    every address is a multiple of 16 bytes, which is all that triton sees of an address
    the driver, its device and triton's settings are those of the first launch, and no hook looks on

Any other launch goes through triton, as do all of them under its interpreter and in versions of it whose inside is not
known here. What a descriptor is on the device (a tensor map) depends on its address and nothing else that changes; the
last few are kept as well.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, reduce
from importlib import import_module
from itertools import repeat
from operator import or_
from typing import Any, TypeAlias

import triton
from torch import Tensor
from triton import knobs

from attnlang.runtime.triton.matrices import Matrix

VERSIONS = ((3, 6),)
"""Versions of triton whose launcher takes arguments as `Kept` gives them."""
MOST_MAPS = 64
"""Tensor maps kept for each descriptor: a training step meets the same few addresses again and again."""
STREAM = 3
"""Where the launcher takes the stream: after the grid."""

Compiled: TypeAlias = Any
Key: TypeAlias = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Pointer:
    """The address of a tensor: which of those that a call is given."""

    number: int

    def of(self, tensors: Sequence[Tensor]) -> Tensor:
        """The tensor itself, whose address triton takes."""
        return tensors[self.number]


@dataclass(frozen=True, slots=True, eq=False)
class Call:
    """A kernel, its grid and all arguments but for addresses: Pointer and Matrix stand for those.

    arguments  by position; tensors among them are tables, which stay where they are
    constants  by name: what is compiled in, and triton's options
    """

    kernel: Any
    grid: tuple[int, ...]
    arguments: tuple[Any, ...]
    constants: Mapping[str, Any]
    kept: dict[Key, Kept | None] = field(default_factory=dict[Key, "Kept | None"], repr=False)

    def plainly(self, tensors: Sequence[Tensor]) -> Compiled:
        """Launch it as triton does, and say what was launched (nothing, under the interpreter)."""
        whole = [x.of(tensors) if isinstance(x, Pointer | Matrix) else x for x in self.arguments]
        return self.kernel[self.grid](*whole, **self.constants)

    def bound(self) -> tuple[Any, ...]:
        """Every argument in the kernel's order."""
        rest = self.kernel.arg_names[len(self.arguments) :]
        return (*self.arguments, *(self.constants[name] for name in rest))


def launch(calls: Sequence[Call], tensors: Sequence[Tensor]) -> None:
    """Launch calls in order, all on the same tensors, on the current device and stream."""
    addresses = [x.data_ptr() for x in tensors]
    if reduce(or_, addresses) & 15 or not _known() or _observed():
        for call in calls:
            call.plainly(tensors)
        return
    driver: Any = triton.runtime.driver.active
    device = driver.get_current_device()
    stream = driver.get_current_stream(device)
    key = driver, device, knobs.runtime.debug, knobs.compilation.instrumentation_mode
    for call in calls:
        kept = call.kept.get(key)
        if kept is not None and not call.kernel.pre_run_hooks:
            kept(addresses, stream, tensors)
            continue
        compiled = call.plainly(tensors)
        if compiled is not None and key not in call.kept:
            call.kept[key] = keep(call, compiled, tensors)


@lru_cache(maxsize=1)
def _known() -> bool:
    """Whether this is a triton whose launcher is known here."""
    version = tuple(map(int, triton.__version__.split(".")[:2]))
    return version in VERSIONS and not knobs.runtime.interpret


def _observed() -> bool:
    """Whether anyone (a profiler) wants to know of launches: triton tells them."""
    enter, leave = knobs.runtime.launch_enter_hook, knobs.runtime.launch_exit_hook
    return bool(getattr(enter, "calls", True) or getattr(leave, "calls", True))


# what is kept ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Maps:
    """A descriptor among the arguments, and its tensor maps by address."""

    place: int
    matrix: Matrix
    form: Any
    known: dict[int, Any] = field(default_factory=dict[int, Any])

    def at(self, address: int, tensors: Sequence[Tensor]) -> Any:
        """The tensor map of an address that is met for the first time."""
        if len(self.known) >= MOST_MAPS:
            self.known.clear()
        found, *_ = _parts(self.matrix.of(tensors), self.form)
        self.known[address] = found
        return found


@dataclass(frozen=True, slots=True)
class Kept:
    """A launch as triton's launcher takes it, with room for the stream, addresses and tensor maps.

    pointers  where in the arguments addresses go, and which
    """

    compiled: Compiled  # (the function that is launched is there as long as this is)
    native: Callable[..., None]
    arguments: list[Any]
    pointers: tuple[tuple[int, int], ...]
    maps: tuple[_Maps, ...]

    def __call__(self, addresses: Sequence[int], stream: int, tensors: Sequence[Tensor]) -> None:
        """Launch it on tensors at these addresses."""
        arguments = self.arguments.copy()
        arguments[STREAM] = stream
        for place, number in self.pointers:
            arguments[place] = addresses[number]
        for maps in self.maps:
            address = addresses[maps.matrix.number]
            arguments[maps.place] = maps.known.get(address) or maps.at(address, tensors)
        self.native(*arguments)


def keep(call: Call, compiled: Compiled, tensors: Sequence[Tensor]) -> Kept | None:
    """What is kept of a call that was compiled; None where the launcher has to do more than pass arguments on."""
    launcher = compiled.run
    native = _native(launcher)
    scratch = launcher.global_scratch_size or launcher.profile_scratch_size
    if compiled.metadata.target.backend != "cuda" or native is None or scratch:
        return None
    grid = (*call.grid, 1, 1)[:3]
    how = launcher.launch_cooperative_grid, launcher.launch_pdl
    arguments: list[Any] = [*grid, None, compiled.function, *how, None, None, compiled.packed_metadata]
    arguments += [None] * 3  # metadata for hooks, and the hooks: there are none
    pointers: list[tuple[int, int]] = []
    maps: list[_Maps] = []
    forms = iter(getattr(compiled.metadata, "tensordesc_meta", None) or repeat(None))
    for argument, kind in zip(call.bound(), compiled.src.signature.values(), strict=True):
        place = len(arguments)
        if isinstance(kind, str) and kind.startswith("tensordesc"):
            form = next(forms)
            descriptor = argument.of(tensors) if isinstance(argument, Matrix) else argument
            arguments += _parts(descriptor, form)
            if isinstance(argument, Matrix):
                if form is None:  # a GPU without tensor maps is given the address
                    pointers.append((place, argument.number))
                else:
                    maps.append(_Maps(place, argument, form))
                arguments[place] = None
            elif form is None:
                arguments[place] = descriptor.base.data_ptr()
        elif isinstance(argument, Pointer):
            pointers.append((place, argument.number))
            arguments.append(None)
        else:
            arguments.append(argument.data_ptr() if isinstance(argument, Tensor) else argument)
    return Kept(compiled, native, arguments, tuple(pointers), tuple(maps))


def _native(launcher: Any) -> Callable[..., None] | None:
    """The launcher in C, beneath the function that takes descriptors apart; None if it is not where it was."""
    found = launcher.launch
    if inspect.isfunction(found):
        found = inspect.getclosurevars(found).nonlocals.get("launcher")
    return found


def _parts(descriptor: Any, form: Any) -> list[Any]:
    """A descriptor as the launcher in C takes it: a tensor map (or an address), shape and strides."""
    return import_module("triton.backends.nvidia.driver").make_tensordesc_arg(descriptor, form)

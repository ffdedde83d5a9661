"""Reading pattern files, and the folder of the library."""

from __future__ import annotations

from difflib import get_close_matches
from functools import cache
from importlib.resources import files
from pathlib import Path

from attnlang import codes
from attnlang.diagnostics import AttnError, Diagnostic
from attnlang.source import Source

MAX_BYTES = 2**18
"""The largest file that is read."""


def library_folder() -> Path:
    """Where the library's .attn files are: inside an installed package, or beside it in a checkout."""
    installed = Path(str(files("attnlang"))) / "patterns"
    return installed if installed.is_dir() else installed.parent.parent / "patterns"


@cache
def library_names() -> tuple[str, ...]:
    """The names of all library patterns, sorted."""
    return tuple(sorted(path.stem for path in library_folder().glob("*.attn")))


def library_path(name: str) -> Path:
    """The file of a library pattern. Raises AttnError (A0005), with the nearest name, if there is none."""
    if name in library_names():
        return library_folder() / f"{name}.attn"
    try:
        file = _file_like(Path(name))
    except OSError:  # (no file can have such a name)
        file = None
    close = get_close_matches(name, library_names(), 1, 0.5)
    meant = file or (close[0] if close else None)
    hint = f"did you mean `{meant}`?" if meant else "`attnc list` shows the library; files end in .attn"
    raise unreadable(f"no library pattern is called `{name}`", hint)


def _file_like(path: Path) -> str | None:
    """A pattern file beside where this path points that may have been meant: `mine`, `mine.att` for mine.attn."""
    exact = path.with_name(f"{path.name}.attn") if path.name else path
    if exact.is_file():
        return str(exact)
    if not path.suffix or not path.parent.is_dir():
        return None
    beside = {file.name: file for file in path.parent.glob("*.attn")}
    close = get_close_matches(path.name, beside, 1, 0.8)
    return str(beside[close[0]]) if close else None


def unreadable(message: str, hint: str | None = None) -> AttnError:
    """An error about a file as a whole."""
    return AttnError(Diagnostic(codes.UNREADABLE, message, None, help=hint))


def read(path: Path) -> Source:
    """Read a file. Raises AttnError (A0005) if it is missing, no regular file, too large, or not UTF-8 text."""
    try:
        odd = path.exists() and not path.is_file()
        is_folder = path.is_dir()
        data = b"" if odd else _bytes(path)
    except (OSError, ValueError) as error:  # ValueError: a path with a null character
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise unreadable(f"cannot read {path}: {reason or error}", _instead_of(path)) from None
    if is_folder:
        raise unreadable(f"cannot read {path}: it is a folder", f"name the files in it, as in {path}/*.attn")
    if odd:
        raise unreadable(f"cannot read {path}: it is no regular file", "`-` reads standard input, where it is allowed")
    return decode(str(path), data)


def _bytes(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(MAX_BYTES + 1)


def _instead_of(path: Path) -> str | None:
    """What may have been meant by a file that is not there."""
    if path.stem in library_names() and path.name == str(path):
        return f"`{path.stem}` is in the library; `attnc new mine --like {path.stem}` writes a copy of its text"
    try:
        file = _file_like(path)
    except (OSError, ValueError):
        return None
    return f"did you mean `{file}`?" if file else None


def decode(name: str, data: bytes) -> Source:
    """Bytes as the text of a pattern file. Raises AttnError (A0005) if they are too many, or not UTF-8."""
    if len(data) > MAX_BYTES:
        raise unreadable(f"{name} is larger than {MAX_BYTES:,} bytes: no pattern file is")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise unreadable(f"{name} is not UTF-8 text: byte {error.start} cannot be decoded") from None
    return Source(name, text.removeprefix("\ufeff").replace("\r\n", "\n"))

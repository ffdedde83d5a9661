"""The command line: one file a command, each loaded only when it is called.

Exit status: 0 clean, 1 the pattern has errors (or a check failed), 2 the command or its arguments are wrong.
"""

from __future__ import annotations

from difflib import get_close_matches
from importlib import import_module

import click

from attnlang import __version__

COMMANDS = {
    "new": "Write a file to start from.",
    "check": "Check pattern files and print every error.",
    "fmt": "Format pattern files.",
    "report": "Say what a pattern costs, exactly.",
    "compare": "Put several patterns side by side.",
    "show": "Draw a pattern, into a file or the terminal.",
    "compile": "Write a pattern as a PyTorch module.",
    "plan": "Write the sequence-parallel schedule, with its certificate.",
    "verify": "Compare the compiled pattern with its definition, on every backend.",
    "bench": "Time a pattern against dense attention and FlexAttention.",
    "env": "Print versions, devices, and what each backend computes here.",
    "list": "List the patterns of the library.",
    "explain": "Say what a diagnostic means.",
}


class _Commands(click.Group):
    """Finds a command in the file of its name."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        close = get_close_matches(args[0], COMMANDS, 1, 0.5) if args and args[0] not in COMMANDS else []
        if close and not args[0].startswith("-"):
            raise click.UsageError(f"No such command '{args[0]}': did you mean `{close[0]}`?", ctx)
        return super().resolve_command(ctx, args)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command = import_module(f"attnc.cli.{cmd_name}_").command
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.command(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="attnc")
def main() -> None:
    """The compiler of attnlang, a language for sparse attention patterns.

    PATTERN is a library name (longnet), a file (my.attn), or one pattern of a file (my.attn:name).
    """

"""Tokens in words a user knows: `)` rather than RPAR, 'a name' rather than NAME."""

from __future__ import annotations

from lark import Token

_WORDS = {"NAME": "a name", "INT": "a number", "STRING": 'a file in quotes "..."', "$END": "the end"}
_SPELLING = {
    "PATTERN": "pattern", "IMPORT": "import", "FROM": "from", "WHERE": "where", "WITHIN": "within",
    "IF": "if", "ELSE": "else", "OR": "or",
    "AND": "and", "NOT": "not", "FOR": "for", "IN": "in", "STEP": "step", "ASSIGN": "=", "COMMA": ",", "COLON": ":",
    "DOTDOT": "..", "LPAR": "(", "RPAR": ")", "LSQB": "[", "RSQB": "]", "LBRACE": "{", "RBRACE": "}",
}  # fmt: skip
_OPERATORS = frozenset(
    [
        "OR",
        "AND",
        "EQ",
        "NE",
        "LE",
        "GE",
        "LT",
        "GT",
        "BAR",
        "AMP",
        "PLUS",
        "MINUS",
        "POWER",
        "STAR",
        "FLOORDIV",
        "PERCENT",
        "IF",
    ]
)
_EXPRESSION = frozenset(["NAME", "INT", "TRUE", "FALSE", "LPAR", "LSQB", "MINUS", "PLUS", "TILDE", "NOT"])


def describe_token(token: Token) -> str:
    """The token as a reader sees it."""
    if token.type == "NAME":
        return f"name `{token}`"
    if token.type in ("INT", "STRING"):
        return f"`{token}`"
    return f"word `{token}`" if token.isalpha() else f"`{token}`"


def describe_expected(accepted: frozenset[str]) -> str:
    """What may stand here, in few words: expressions and operators count as one thing each."""
    parts: list[str] = []
    if accepted >= {"NAME", "INT", "LPAR"}:
        parts.append("an expression")
        accepted -= _EXPRESSION
    elif len(accepted & _OPERATORS) > 3:
        parts.append("an operator")
        accepted -= _OPERATORS
    parts += sorted(_WORDS.get(kind) or f"`{_SPELLING.get(kind, kind.lower())}`" for kind in accepted)
    shown = parts[:5]
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} or {shown[-1]}"

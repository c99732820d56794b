"""Keys and passwords out of what is shown or stored: one policy for settings, names and messages.

Three things are hidden: a text whose name is a key's (``api_key``, ``token``, ``password``, ``Authorization``), be it a
setting or ``name=value`` within a text; the user info and the query of a URL; what has the form of a key that providers
hand out. Numbers, truth values and null stay, since weights and sizes have such names too.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

REDACTED = "<redacted>"
"""What stands where something was hidden."""

_SECRET_WORD = re.compile(
    r"keys?|\w*(?:apikey|token|secrets?|passw(?:or)?ds?)|pass|passphrase|pwd|auth|authorization|credentials?|cookies?|jwt"
)
# Written together, or of several: `apikey`, `access_tokens`. A plain `tokens` is a number of tokens.
_SECRET_PAIR = re.compile(r"(?:api|access|auth|bearer|private|refresh|secret|session)(?:key|token)")
_HARMLESS_END = {"file", "path", "folder", "dir", "name", "id", "ids", "error", "index", "size", "dim"}
"""Last words of names that say where a key is, or speak of keys of another kind: ``key_file``, ``pad_token_id``."""
_VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]*")
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_NUMBER_LIKE = re.compile(r"[-+]?[\d.]+(?:[eE][-+]?\d+)?|true|false|null|none", re.IGNORECASE)

# Bounded and possessive: messages hold what models and servers wrote, and have to be read in linear time.
_NAME = re.compile(
    r"""(?<!\w)(?P<name>[A-Za-z_][\w-]{0,80}+)\\?["']?\s{0,3}+(?:=>?|:)\s{0,3}+"""
    r"""|\(\s{0,3}+["'](?P<first>[A-Za-z_][\w-]{0,80}+)["']\s{0,3}+,\s{0,3}+"""  # a header as a pair
)
_STRINGS = re.compile(r"""(?:[rbuRBU]{0,2}(?:"(?:[^"\\]|\\.)*+(?:"|$)|'(?:[^'\\]|\\.)*+(?:'|$))\s{0,3}+)+""", re.DOTALL)
_ESCAPED = re.compile(r"""\\(["']).*?(?:\\\1|$)""", re.DOTALL)
_BARE = re.compile(r"""(?:(?:Bearer|Basic|Token)\s{1,3})?[^\s,;&)\]}"']+""")
_BRACKETS = {"(": 1, "[": 1, "{": 1, ")": -1, "]": -1, "}": -1}
_URL = re.compile(r"""([A-Za-z][\w+.-]{1,20}+://)([^\s/?#'"]*@)?([^\s?'"]*)(\?[^\s'"]*)?""")
_PROVIDED = re.compile(
    r"(?<![\w-])sk-(?=[\w-]{0,40}\d)[\w-]{20,}|hf_[A-Za-z0-9]{30,}|gh[opsur]_[A-Za-z0-9]{30,}|github_pat_\w{30,}|glpat-[\w-]{20,}"
    r"|xox[abprs]-[\w-]{10,}|AKIA[A-Z0-9]{16}|AIza[\w-]{35}|(?<=Bearer )[\w.~+/=-]{8,}"
)


def redact(value: Any) -> Any:
    """A value of a configuration without secrets: dicts, lists and tuples are gone through, texts are read."""
    if isinstance(value, str):
        return redact_text(value)
    if isinstance(value, Mapping):
        # Two rewards that differ in their keys alone stay two.
        names = unique(redact_text(key) if isinstance(key, str) else key for key in value)
        pairs = zip(names, value.items(), strict=True)
        return {
            name: _hidden(part) if is_secret(key) and not _is_variable(key, part) else redact(part)
            for name, (key, part) in pairs
        }
    if isinstance(value, list | tuple):
        return type(value)([redact(part) for part in value])
    return value


def redact_text(text: str) -> str:
    """A text without secrets; what was redacted before stays as it is."""
    if _URL.search(text):
        text = _URL.sub(_hide_url, text)
    return _PROVIDED.sub(REDACTED, _hide_named(text))


def is_secret(name: Any) -> bool:
    """Whether a setting, an argument or a header of that name holds a key; of a dotted name the last part counts."""
    if not isinstance(name, str) or not re.fullmatch(r"[\w.-]+", name):
        return False
    words = [word.lower() for word in _WORD.findall(name.rpartition(".")[2])]
    if not words or words[-1] in _HARMLESS_END:
        return False
    return any(map(_SECRET_WORD.fullmatch, words)) or bool(_SECRET_PAIR.search("".join(words)))


def unique(names: Iterable[Any]) -> list[Any]:
    """The names in order, a second one of the same text as ``name_2``."""
    found: list[Any] = []
    for name in names:
        number, given = 1, name
        while name in found:
            number += 1
            name = f"{given}_{number}"
        found.append(name)
    return found


def _hidden(value: Any) -> Any:
    """A value under a secret's name: its texts are hidden."""
    if isinstance(value, Mapping):
        return {key: _hidden(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return type(value)([_hidden(part) for part in value])
    return REDACTED if isinstance(value, str) and value else value


def _is_variable(name: str | None, value: Any) -> bool:
    """Whether it is the name of an environment variable, under ``key_env`` or such; a key by mistake is none."""
    return str(name).lower().endswith("env") and isinstance(value, str) and bool(_VARIABLE.fullmatch(value))


def _hide_url(match: re.Match[str]) -> str:
    scheme, user, address, query = match.groups()
    return f"{scheme}{f'{REDACTED}@' if user else ''}{address}{f'?{REDACTED}' if query else ''}"


def _hide_named(text: str) -> str:
    """Hide the values of ``name=value`` and ``name: value`` where the name is a secret's."""
    parts, done = [], 0
    for match in _NAME.finditer(text):
        start = match.end()
        if start < done or not is_secret(match["name"] or match["first"]):
            continue
        end = _value_end(text, start)
        value = text[start:end]
        if _is_variable(match["name"], value.strip("\"'")):
            continue
        # A call is a reward's path: ``my_secrets:Judge(…)``.
        if not value or _NUMBER_LIKE.fullmatch(value) or re.match(r"[A-Za-z_]\w*\(", value):
            continue
        # Quotes stay, so that a reward's path can still be read.
        quote = value[0] if value[0] in "\"'" else ""
        parts += [text[done:start], f"{quote}{REDACTED}{quote}", value[len(value.rstrip()) :]]
        done = end
    return "".join([*parts, text[done:]])


def _value_end(text: str, start: int) -> int:
    """Where a value ends: behind a string, at the bracket that closes, or behind a word."""
    if match := _STRINGS.match(text, start) or _ESCAPED.match(text, start):
        return match.end()
    if text[start : start + 1] not in ("(", "[", "{"):
        word = _BARE.match(text, start)
        return word.end() if word else start
    depth, at = 0, start
    while at < len(text):
        string = _STRINGS.match(text, at)
        depth += 0 if string else _BRACKETS.get(text[at], 0)
        at = string.end() if string else at + 1
        if depth == 0:
            break
    return at

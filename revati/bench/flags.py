"""Sorts a mixed command line into flags of `vllm serve` and flags of `vllm bench serve`.

Which flag belongs to whom is asked of vLLM's own argument parsers. They import half of vLLM, so they are
asked by running this module as a program inside the run's environment; the answer is kept per vLLM version.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_FORMAT = 2  # of the kept table


class FlagError(ValueError):
    """A flag that neither parser knows, or one without its value."""


@dataclass(frozen=True)
class Option:
    """One option of a parser: its canonical (longest) name and its number of values (argparse's nargs)."""

    name: str
    nargs: int | str  # a number, "?", "*" or "+"


@dataclass(frozen=True)
class FlagTable:
    """The options of both parsers by every spelling they have."""

    server: Mapping[str, Option]
    client: Mapping[str, Option]


@dataclass
class SortedFlags:
    """The outcome: arguments for each side in the user's order, and words that are no flag's value."""

    server: list[str] = field(default_factory=list)
    client: list[str] = field(default_factory=list)
    positional: list[str] = field(default_factory=list)
    values: dict[str, list[str]] = field(default_factory=dict)  # canonical name -> values of its last use
    table: FlagTable = field(default_factory=lambda: FlagTable({}, {}))  # what there is

    def value(self, name: str) -> str | None:
        """The single value given for an option (by canonical name), or None."""
        values = self.values.get(name)
        return values[0] if values else None


def normalise(word: str) -> str:
    """Spell a flag as the parsers do: `--max_model_len` is `--max-model-len`; values stay as they are."""
    if not word.startswith("--"):
        return word
    name, equals, value = word.partition("=")
    head, dot, tail = name.partition(".")
    return head.replace("_", "-") + dot + tail + equals + value


def sort_flags(words: Sequence[str], table: FlagTable) -> SortedFlags:
    """Give every flag, with its values, to the parser(s) that know it; shared flags go to both."""
    result = SortedFlags(table=table)
    index = 0
    while index < len(words):
        word = normalise(words[index])
        index += 1
        if not _is_flag(word):
            result.positional.append(word)
            continue
        spelling, has_value = _spelling(word, table)
        server, client = table.server.get(spelling), table.client.get(spelling)
        option = server or client
        if option is None:
            raise FlagError(
                f"unknown flag {word.partition('=')[0]}: neither `vllm serve` nor `vllm bench serve` has it"
            )
        taken: list[str] = []
        if not has_value:
            taken = _values(words[index:], option, table)
            index += len(taken)
        chunk = [word, *taken]
        inline = (
            [word.partition("=")[2]] if "=" in word else ([word[2:]] if has_value and len(word) > 2 else [])
        )
        result.values[option.name] = taken or inline
        if server is not None:
            result.server += chunk
        if client is not None:
            result.client += chunk
    return result


def _is_flag(word: str) -> bool:
    return word.startswith("-") and word != "-" and re.fullmatch(r"-\d+(\.\d+)?(e-?\d+)?", word) is None


def _spelling(word: str, table: FlagTable) -> tuple[str, bool]:
    """The spelling to look up, and whether the word carries its value (`--a=1`, `-O3`)."""
    name, equals, _ = word.partition("=")
    base = name.partition(".")[0]  # vLLM reads --compilation-config.mode 3 as one key of that option's JSON
    if base in table.server or base in table.client:
        return base, bool(equals)
    short = word[:2]
    if not word.startswith("--") and (short in table.server or short in table.client):
        return short, True
    return base, bool(equals)


def _values(rest: Sequence[str], option: Option, table: FlagTable) -> list[str]:
    available: list[str] = []
    for word in rest:
        spelling, _ = _spelling(normalise(word), table)
        if _is_flag(word) and (word.startswith("--") or spelling in table.server or spelling in table.client):
            break
        available.append(word)
    if isinstance(option.nargs, int):
        if len(available) < option.nargs:
            raise FlagError(f"{option.name} needs {option.nargs} value{'s' if option.nargs > 1 else ''}")
        return available[: option.nargs]
    if option.nargs == "+" and not available:
        raise FlagError(f"{option.name} needs at least one value")
    return available[:1] if option.nargs == "?" else available


def load_table(env: Mapping[str, str], cache: Path, vllm_version: str) -> FlagTable:
    """The table of the installed vLLM: kept in `cache`, or asked of vLLM under the environment of a run.

    Raises RuntimeError with vLLM's last line of output where its parsers cannot be built.
    """
    path = cache / f"vllm-flags-{vllm_version}-{_FORMAT}.json"
    try:
        return table_from_json(json.loads(path.read_text()))
    except (OSError, ValueError, KeyError, TypeError):
        pass
    asked = subprocess.run(
        [sys.executable, "-m", "revati.bench.flags"],
        env=dict(env),
        capture_output=True,
        text=True,
        check=False,
    )
    lines = asked.stdout.strip().splitlines()
    if asked.returncode != 0 or not lines:
        last = (asked.stderr.strip().splitlines() or ["no output"])[-1]
        raise RuntimeError(f"vLLM's argument parsers cannot be built: {last}")
    table = table_from_json(json.loads(lines[-1]))
    cache.mkdir(parents=True, exist_ok=True)
    staging = path.with_suffix(".tmp")
    staging.write_text(lines[-1])
    staging.replace(path)
    return table


def table_from_json(raw: Mapping[str, Mapping[str, list[Any]]]) -> FlagTable:
    """Read what `main` printed: {"server": {spelling: [canonical name, nargs]}, "client": ...}."""

    def side(name: str) -> dict[str, Option]:
        return {spelling: Option(str(entry[0]), entry[1]) for spelling, entry in raw[name].items()}

    return FlagTable(side("server"), side("client"))


def describe_parser(parser: Any) -> dict[str, list[Any]]:
    """Every option spelling of an argparse parser with its canonical name and nargs."""
    table: dict[str, list[Any]] = {}
    for action in parser._actions:
        if not action.option_strings:
            continue
        name = (
            max(action.option_strings, key=len)
            if len(action.option_strings) > 1
            else action.option_strings[0]
        )
        positive = [text for text in action.option_strings if not text.startswith("--no-")]
        name = max(positive, key=len) if positive else name
        nargs = 1 if action.nargs is None else action.nargs
        for spelling in action.option_strings:
            table[spelling] = [name, nargs]
    return table


def main() -> None:
    """Print the options of both vLLM parsers as one line of JSON (the last line of stdout)."""
    from vllm.benchmarks.serve import add_cli_args

    from revati.engines.vllm.versions import first_of

    cli_args = first_of("vllm.entrypoints.launchers.cli_args", "vllm.entrypoints.openai.cli_args")
    parser = first_of("vllm.utils.argparse_utils", "vllm.utils").FlexibleArgumentParser
    client = parser()
    add_cli_args(client)
    server = cli_args.make_arg_parser(parser())
    print(json.dumps({"server": describe_parser(server), "client": describe_parser(client)}))


if __name__ == "__main__":
    main()

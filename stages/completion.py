"""Print a completion script for bash, zsh or fish."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable

from entropyctl import registry

# Standard library only, like the dispatcher: the script is made anew whenever a shell starts.
HELP = """\
Usage: entropyctl completion bash|zsh|fish

  Print a completion script: stages, methods after a stage that has some, file names everywhere else.

  bash:  eval "$(entropyctl completion bash)"           in ~/.bashrc
  zsh:   eval "$(entropyctl completion zsh)"            in ~/.zshrc, after compinit
  fish:  entropyctl completion fish | source            in ~/.config/fish/config.fish"""

Words = dict[str, list[str]]


def run(argv: list[str]) -> int:
    """The `entropyctl completion` command."""
    if argv in (["--help"], ["-h"]):
        print(HELP)
        return 0
    if len(argv) != 1 or argv[0] not in SCRIPTS:
        said = f"'{' '.join(argv)}' is no shell" if argv else "no shell is named"
        print(f"entropyctl completion: {said}; known: {', '.join(SCRIPTS)}", file=sys.stderr)
        return 2
    print(SCRIPTS[argv[0]](_plain(registry.names("stages")), second_words()))
    return 0


def second_words() -> Words:
    """What may follow a stage's name, for the stages that want a word from a list there."""
    return {
        "advantage": _plain(registry.names("advantages")),
        "mask": _plain(registry.names("masks")),
        "objective": _plain(registry.names("objectives")),
        "completion": list(SCRIPTS),
    }


def _plain(names: list[str]) -> list[str]:
    """Names that a shell takes as one word; an entry point of another package may be called anything."""
    return [name for name in names if re.fullmatch(r"[\w.@+-]+", name)]


def bash(stages: list[str], second: Words) -> str:
    """The script for bash. Where the function finds nothing, bash completes file names by itself."""
    cases = "\n".join(f'            {stage}) words="{" ".join(words)}" ;;' for stage, words in second.items())
    return f"""\
_entropyctl() {{
    local words=""
    COMPREPLY=()
    if [ "$COMP_CWORD" -eq 1 ]; then
        words="{" ".join(stages)} --help --version"
    elif [ "$COMP_CWORD" -eq 2 ]; then
        case "${{COMP_WORDS[1]}}" in
{cases}
        esac
    fi
    if [ -n "$words" ]; then
        COMPREPLY=($(compgen -W "$words" -- "${{COMP_WORDS[COMP_CWORD]}}"))
    fi
}}
complete -o bashdefault -o default -F _entropyctl entropyctl"""


def zsh(stages: list[str], second: Words) -> str:
    """The script for zsh."""
    cases = "\n".join(
        f"            {stage}) compadd -- {' '.join(words)}; return ;;" for stage, words in second.items()
    )
    return f"""\
#compdef entropyctl
_entropyctl() {{
    if (( CURRENT == 2 )); then
        compadd -- {" ".join(stages)} --help --version
        return
    elif (( CURRENT == 3 )); then
        case "${{words[2]}}" in
{cases}
        esac
    fi
    _files
}}
compdef _entropyctl entropyctl"""


def fish(stages: list[str], second: Words) -> str:
    """The script for fish."""
    at = "test (count (commandline --current-process --tokenize --cut-at-cursor)) -eq"
    lines = [f"complete -c entropyctl -n '{at} 1' -f -a '{' '.join(stages)} --help --version'"]
    lines += [
        f"complete -c entropyctl -n '{at} 2; and __fish_seen_subcommand_from {stage}' -f -a '{' '.join(words)}'"
        for stage, words in second.items()
    ]
    return "\n".join(lines)


SCRIPTS: dict[str, Callable[[list[str], Words], str]] = {"bash": bash, "zsh": zsh, "fish": fish}

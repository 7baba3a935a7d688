"""`builder completion SHELL`: prints a completion script, which runs `builder list --names` on TAB."""

import json
import shlex
from collections.abc import Sequence

from builder.app.context import parser
from builder.cli.main import VERBS

_BASH = """\
_builder() {{
    local word=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD-1]}}
    if [ "$COMP_CWORD" -eq 1 ]; then
        mapfile -t COMPREPLY < <(compgen -W "{verbs}" -- "$word")
    elif [ "$before" = --target ] || [ "$before" = show ]; then
        mapfile -t COMPREPLY < <(compgen -W "$(builder list --names 2>/dev/null)" -- "$word")
    elif [ "$before" = --update ]; then
        mapfile -t COMPREPLY < <(compgen -W "$(builder lock --names 2>/dev/null)" -- "$word")
    elif [ "${{COMP_WORDS[1]}}" = lock ]; then
        mapfile -t COMPREPLY < <(compgen -W "--update --diff --verify --json --root --help" -- "$word")
    else
        mapfile -t COMPREPLY < <(compgen -W "--target --all --publish --jobs --json --root --help" -- "$word")
    fi
}}
complete -F _builder builder
"""
_ZSH = """\
#compdef builder
_builder() {{
    local -a verbs targets
    verbs=({described})
    if (( CURRENT == 2 )); then
        _describe verb verbs
    elif [[ $words[CURRENT-1] == (--target|show) ]]; then
        targets=(${{(f)"$(builder list --names 2>/dev/null)"}})
        _describe target targets
    elif [[ $words[CURRENT-1] == --update ]]; then
        targets=(${{(f)"$(builder lock --names 2>/dev/null)"}})
        _describe name targets
    elif [[ $words[2] == lock ]]; then
        _arguments '--update' '--diff' '--verify' '--json' '--root' '--help'
    else
        _arguments '--target' '--all' '--publish' '--jobs' '--json' '--root' '--help'
    fi
}}
compdef _builder builder
"""
_FISH = """\
complete -c builder -f
{lines}
complete -c builder -l target -x -a '(builder list --names 2>/dev/null)'
complete -c builder -n '__fish_seen_subcommand_from lock' -l update -x -a '(builder lock --names 2>/dev/null)'
complete -c builder -n '__fish_seen_subcommand_from lock' -l diff
complete -c builder -n '__fish_seen_subcommand_from lock' -l verify
complete -c builder -n '__fish_seen_subcommand_from show' -a '(builder list --names 2>/dev/null)'
"""


def run(argv: Sequence[str]) -> int:
    options = parser("completion", "Print a completion script. For bash: source <(builder completion bash)")
    options.add_argument("shell", choices=("bash", "zsh", "fish"))
    shell = options.parse_args(argv).shell
    if shell == "bash":
        print(_BASH.format(verbs=" ".join(VERBS)), end="")
    elif shell == "zsh":
        described = " ".join(shlex.quote(f"{verb}:{summary}") for verb, summary in VERBS.items())
        print(_ZSH.format(described=described), end="")
    else:
        lines = "\n".join(
            f"complete -c builder -n __fish_use_subcommand -a {verb} -d {json.dumps(summary)}"
            for verb, summary in VERBS.items()
        )
        print(_FISH.format(lines=lines), end="")
    return 0

"""Classes of the commands that the builder prints as hints; the value 1 stands for any word.

Every command in a string of the source is in one class; those that end with --help are run by a test of their
own, and those in backticks are only mentioned.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Situation:
    """A command line that prints a hint, its exit code, and the exit code of the hint's command."""

    typed: str
    code: int = 2
    hint_code: int = 0
    replaced: Mapping[str, str] = field(default_factory=dict)  # words that the user replaces in the hint
    edits: tuple[tuple[str, str, str], ...] = ()  # (file, old text, new text) before the command


_BROKEN = (("catalog/targets/helium.toml", "says hello", "broken"),)
_NEWER = (("containers/hello/requirements.lock", "greet==1.0", "greet==1.1"),)

# Run by tests/unit/test_printed_commands.py. RUN is the name of the only run.
SITUATIONS = {
    "builder ami list": Situation("builder ami show hello"),
    "builder build --all --kind 1": Situation("builder build hello --kind container"),
    "builder build 1": Situation("builder build helium", 5, edits=_BROKEN),
    "builder build 1 --publish": Situation("builder launch trainer --on slurm --instance m7i.large", 3),
    "builder build TARGET": Situation("builder build --all hello"),
    "builder build TARGET --json": Situation("builder logs --follow --json"),
    "builder clean": Situation("builder clean nope"),
    "builder clean --all": Situation("builder clean --all --older-than 1d"),
    "builder clean --yes": Situation("builder clean --keep-last 0", 0),
    "builder clean 1": Situation("builder clean RUN --all"),
    "builder completion bash": Situation("builder completion --help", 0),
    "builder iam TARGET": Situation(
        "builder rehearse up --policy /nowhere", 3, replaced={"TARGET": "machine"}
    ),
    "builder lint --rules": Situation("builder lint bad", 5),
    "builder lint 1": Situation("builder lint docs/notes.xyz"),
    "builder lint FOLDER": Situation("builder lint /nowhere", 3),
    "builder list": Situation("builder plan nope"),
    "builder lock --names": Situation("builder lock --update nope"),
    "builder lock 1": Situation("builder build hello", 7, edits=_NEWER),
    "builder lock TARGET --1 1": Situation("builder lock --flavour plain"),
    "builder logs": Situation("builder logs nope"),
    "builder plan --json": Situation("builder build hello --dry-run --json"),
    "builder plan --write-golden 1": Situation("builder plan --write-golden docs --json"),
    "builder plan 1": Situation("builder build hello --rebuild nope"),
    "builder show 1": Situation("builder plan hello --flavour nope"),
    "builder stack list": Situation("builder stack show nope"),
}

# Run by tests/unit/test_printed_commands.py without a message before, with the exit code.
AS_WRITTEN = {
    "builder clean --all --yes": 0,
    "builder clean --max-size 0 --yes": 0,
    "builder lock": 0,
    "builder lock --verify": 0,
    "builder plan --target NAME --json": 0,
    "builder rehearse status": 3,  # no rehearsal is running
}

_AMI = "tests/adapters/test_ami_verbs.py::test_publishes_lists_shares_deprecates_shows_and_retires_an_image"
_CLUSTER = "tests/launch/test_cluster.py::test_cluster_down_removes_everything_except_the_shared_folder"
_REGISTRY = "tests/e2e/test_verbs.py::test_the_local_registry_restarts_at_the_same_address"
_REHEARSAL = "tests/e2e/test_rehearsal_life.py::test_up_status_env_and_down_print_the_state_of_the_rehearsal"
_STACKS = "tests/adapters/test_deploy.py::test_stacks_are_planned_applied_and_deleted"

# Run by the named test, which needs an engine, a rehearsal or another set of files.
TESTED = {
    "builder ami retire 1 --force": _AMI,
    "builder ami retire 1 --yes": _AMI,
    "builder ami show 1": _AMI,
    "builder build 1 --flavour 1 --publish": (
        "tests/e2e/test_new_user.py::test_a_new_target_is_built_published_and_run"
    ),
    "builder build TARGET --publish": (
        "tests/images/test_targets.py::test_every_target_is_published_by_digest"
    ),
    "builder build TARGET --reproduce": (
        "tests/unit/test_reproduction.py::test_reproduce_builds_all_layers_twice_and_prints_the_image_or_differences"
    ),
    "builder build cpu-ddp": "tests/images/test_targets.py::test_the_printed_next_command_trains",
    "builder check 1 --target 1": "tests/e2e/test_verbs.py::test_check_fails_for_an_incomplete_image",
    "builder check 1 --target 1 --only 1 --details": (
        "tests/e2e/test_new_user.py::test_a_new_target_is_built_published_and_run"
    ),
    "builder check 1 --target TARGET": "tests/e2e/test_verbs.py::test_check_fails_for_an_incomplete_image",
    "builder clean --everything": "tests/adapters/test_inventory.py::test_nothing_is_deleted_without_consent",
    "builder clean 1 --yes": (
        "tests/e2e/test_ami_build.py::test_error_names_a_failing_role_and_keep_failed_keeps_the_instance"
    ),
    "builder deploy 1 1 --yes": _STACKS,
    "builder deploy plan 1": _STACKS,
    "builder doctor": "tests/e2e/test_verbs.py::test_doctor_prints_every_problem_with_a_fix",
    "builder init stack 1-1 --from -": (
        "tests/adapters/test_init.py::test_suggests_a_valid_name_for_a_stack"
    ),
    "builder init stack 1-1 --from 1": "tests/adapters/test_init.py::test_suggests_a_valid_name_for_a_stack",
    "builder launch --check 1": (
        "tests/unit/test_launch_check.py::test_the_commands_in_errors_of_launch_check_run"
    ),
    "builder launch --check 1 --instance TYPE": (
        "tests/unit/test_launch_check.py::test_the_commands_in_errors_of_launch_check_run"
    ),
    "builder launch TARGET --on slurm --instance TYPE -o FOLDER": (
        "tests/unit/test_launch_check.py::test_the_commands_in_errors_of_launch_check_run"
    ),
    "builder registry down": _REGISTRY,
    "builder registry up": _REGISTRY,
    "builder rehearse cluster down": _CLUSTER,
    "builder rehearse cluster down --name 1": _CLUSTER,
    "builder rehearse cluster exec -- sbatch JOB.sbatch": (
        "tests/launch/test_cluster.py::test_a_rendered_job_runs_on_two_nodes"
    ),
    "builder rehearse cluster exec -- squeue": (
        "tests/launch/test_cluster.py::test_a_rendered_job_runs_on_two_nodes"
    ),
    "builder rehearse cluster up --instance TYPE": _CLUSTER,
    "builder rehearse down": _REHEARSAL,
    "builder rehearse down --name 1": _REHEARSAL,
    "builder rehearse env": _REHEARSAL,
    "builder rehearse up": _REHEARSAL,
    "builder role 1 --twice": (
        "tests/roles/test_verb.py::test_applies_a_role_twice_checks_it_and_removes_the_machine"
    ),
    "builder run 1": "tests/images/test_targets.py::test_the_printed_next_command_trains",
    "builder stack check 1": (
        "tests/unit/test_stack_judging.py::test_a_violated_error_rule_refuses_the_build_with_the_reason"
    ),
}

_ACCOUNT = "changes or asks an AWS account, for which the user needs credentials"
_CHANGED = "a source changed since it was locked: the user decides whether the new content is right"

# Run by no test, because a person decides first.
HUMAN = {
    "builder build 1 1": _ACCOUNT,
    "builder build 1 1 --yes": _ACCOUNT,
    "builder clean --site aws": _ACCOUNT,
    "builder clean 1 --site aws --yes": _ACCOUNT,
    "builder doctor --site aws": _ACCOUNT,
    "builder lock --update '1 1'": _CHANGED,
    "builder lock --update '1'": _CHANGED,
    "builder lock --update 'requirements 1'": _CHANGED,
    "builder lock --update 'suite 1 1'": _CHANGED,
    "builder lock --update 1": _CHANGED,
    "builder lock --update SYSTEM": _CHANGED,
    "builder lock 1 --flavour 1": "the user decides which flavours to build",
    "builder lock TARGET --site aws": _ACCOUNT,
    "builder plan 1 1": _ACCOUNT,
    "builder rehearse up --services 1": "ends a rehearsal with all that it contains, to start another",
    "builder stack check 1 --set instance=1": "explains why an instance type is refused; the user chooses",
}

_PREFIX = "begins an error message of that command"
_SENTENCE = "names the command within a sentence about it"

# No hints.
IN_TEXT = {
    "builder ami copy": _PREFIX,
    "builder ami share": _PREFIX,
    "builder build": _PREFIX,
    "builder check REF": "printed to authors of checks by pytest, which knows no image",
    "builder deploy": _SENTENCE,
    "builder iam TARGET --doctor adds": _SENTENCE,
    "builder iam TARGET prints the required policy": _SENTENCE,
    "builder iam prints": _SENTENCE,
    "builder launch": _PREFIX,
    "builder lint": "name of the tool in a SARIF log",
    "builder lint ignore=": "comment that hides a finding",
    "builder lint ignore=RULE": "comment that hides a finding",
    "builder lock TARGET": "heading of a compiled file",
    "builder lock finds no source AMIs": _SENTENCE,
    "builder plan": _SENTENCE,
    "builder role": _PREFIX,
    "builder show lists them": _SENTENCE,
    "builder stack check": _PREFIX,
    "builder stack solve": _PREFIX,
}

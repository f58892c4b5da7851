"""The output of `--help`, for the program and for training, each on one screen.

The settings are read from the source of the project's task and data. Nothing is imported, so help
is fast.
"""

import textwrap
from pathlib import Path
from typing import Any

import yaml

from ..errors import UserError
from ..paths import project_root
from .project import Project
from .settings import Setting, Unreadable, in_yaml, read_settings, settings_of
from .verbs import VERBS, WIDTH, parser_of, program

PROJECT = Path(__file__).with_name("project.py")  # where the engine's flags are
LINES = 40  # of a screen
COLUMN = 32  # where the descriptions begin
NEWEST = "a run's folder or name, or latest"
RUNS = {
    "fit": (
        ("--config FILE", "a recipe in configs/; overrides base.yaml"),
        ("--run FOLDER", f"resume a run: {NEWEST}"),
        ("--elastic", "with --run: allow other devices or batch size"),
        ("--until STEP", "save and exit after this step"),
        ("--best METRIC", "what selects the best weights, such as val/loss"),
        ("--patience N", "end after N validations without a better one"),
    ),
    "evaluation": (
        ("--config FILE", "evaluate the newest run of this recipe"),
        ("--run FOLDER", "evaluate a run's folder; default: latest"),
        ("--ckpt_path FILE", "a checkpoint; default: the run's best"),
    ),
}
ALSO = {"fit": "Also --name and --note. ", "evaluation": ""}
PRECISION = Setting("precision", "null", "32-true, 16-mixed, bf16-mixed; null: automatic")
TRAINER = {
    "fit": (
        Setting("max_epochs", "null", "number of passes over the training split"),
        Setting("devices", "auto", "number of GPUs, -1: all; on a CPU: of processes"),
        PRECISION,
    ),
    "evaluation": (Setting("accelerator", "auto", "cpu or gpu"), PRECISION),
}
USAGE = {"fit": "--config configs/NAME.yaml", "evaluation": "[--run FOLDER]"}


def overview(package: str) -> str:
    """Return the help of the program: one line per verb."""
    lines = [f"usage: {program(package, 'VERB')} [flags]"]
    group = ""
    for name, verb in VERBS.items():
        if verb.group != group:
            lines += ["", verb.group]
            group = verb.group
        lines.append(f"  {name:<12} {verb.help}")
    return "\n".join(
        [
            *lines,
            "",
            f"Start with: {program(package, 'fit --config configs/NAME.yaml')}",
            f"Flags of a verb: {program(package, 'VERB --help')}",
        ]
    )


def help_of(name: str, project: Project) -> str:
    """Return the help of a verb, or of the program if there is no such verb."""
    if name not in VERBS:
        return overview(project.package)
    if VERBS[name].tool:
        return parser_of(name, project.package, project.read_flags).format_help().rstrip()
    return training_help(name, project)


def training_help(name: str, project: Project) -> str:
    """Return the most used flags of run, data, model and trainer, on one screen."""
    called = program(project.package, name)
    base = _base_config()
    kind = "fit" if name == "fit" else "evaluation"
    runs = [_line(flag, text) for flag, text in RUNS[kind]]
    parts = [Part("data", project.data, "DataWithFlags", project, base)]
    if kind == "fit":  # an evaluation uses the run's model settings
        parts.append(Part("model", project.task, "TaskWithFlags", project, base))
    trainer = [_setting_line("trainer", setting, base) for setting in TRAINER[kind]]
    while True:
        blocks = [
            [f"usage: {called} {USAGE[kind]} [flags]"],
            runs,
            *(part.lines() for part in parts),
            trainer,
            [f"{ALSO[kind]}All flags: {called} --help-all"],
        ]
        text = "\n\n".join("\n".join(block) for block in blocks)
        longest = max(parts, key=lambda part: part.described)
        if text.count("\n") < LINES or not longest.described:
            return text
        longest.described -= 1


class Part:
    """A section of the configuration: the settings of the class, then the engine's flags.

    The first `described` settings of the class have a line each; all others are only listed.
    """

    def __init__(
        self, section: str, named: str | type, flags: str, project: Project, base: dict[str, Any]
    ) -> None:
        self.section, self.base, self.remark = section, base, ""
        self.own: list[Setting] = []
        try:
            own = settings_of(named, project.package)
            linked = project.links.values()  # set from the data
            self.own = [s for s in own if f"{section}.{s.name}" not in linked]
        except (Unreadable, RecursionError) as reason:
            self.remark = f"  --{section}.…: only --help-all can list these: {reason}"
        own_names = {setting.name for setting in self.own}
        every = [setting.name for setting in read_settings(PROJECT, flags)]
        self.flags = [name for name in every if name not in own_names]
        self.described = len(self.own)

    def lines(self) -> list[str]:
        shown = [_setting_line(self.section, s, self.base) for s in self.own[: self.described]]
        if self.remark:
            shown = [textwrap.shorten(self.remark, WIDTH, placeholder=" …")]
        others = [*(setting.name for setting in self.own[self.described :]), *self.flags]
        named = f"also --{self.section}.{', .'.join(others)}"
        return [*shown, *textwrap.wrap(named, WIDTH, initial_indent="  ", subsequent_indent="    ")]


def _setting_line(section: str, setting: Setting, base: dict[str, Any]) -> str:
    configured = (base.get(section) or {}).get(setting.name)
    default = setting.default if configured is None else in_yaml(configured)
    return _line(f"--{section}.{setting.name} {default or ''}".rstrip(), setting.help)


def _line(flag: str, text: str) -> str:
    """Return a flag and its description, shortened to the width of the screen."""
    flag = f"  {textwrap.shorten(flag, WIDTH // 2, placeholder=' …')}".ljust(COLUMN)
    return f"{flag} {textwrap.shorten(text, WIDTH - len(flag) - 1, placeholder=' …')}".rstrip()


def _base_config() -> dict[str, Any]:
    """Return the content of configs/base.yaml, or {} if it can't be read."""
    try:
        found = yaml.safe_load((project_root() / "configs" / "base.yaml").read_text())
    except (UserError, OSError, ValueError, yaml.YAMLError):
        return {}
    return found if isinstance(found, dict) else {}

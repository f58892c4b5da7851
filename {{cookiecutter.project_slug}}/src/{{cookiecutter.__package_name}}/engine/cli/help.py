"""What `--help` says: of the program, and of training, at once and on one screen.

The settings are read from the source of the project's task and data, without importing them.
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
COLUMN = 32  # where what a flag does begins
NEWEST = "a run's folder, or latest"
RUNS = {
    "fit": (
        ("--config FILE", "a recipe, over configs/base.yaml"),
        ("--run FOLDER", f"resume a run: {NEWEST}"),
        ("--elastic", "with --run: go on with other devices or batch"),
        ("--until STEP", "save and end after that step"),
    ),
    "evaluation": (
        ("--config FILE", "a recipe in configs/: its newest run"),
        ("--run FOLDER", NEWEST),
        ("--ckpt_path FILE", "a checkpoint; unset: the run's best"),
    ),
}
PRECISION = Setting("precision", "null", "32-true, 16-mixed, bf16-mixed; unset: decided")
TRAINER = {
    "fit": (
        Setting("max_epochs", "null", "how often the training split is seen"),
        Setting("devices", "auto", "how many GPUs, -1 for all; on a CPU, processes"),
        PRECISION,
    ),
    "evaluation": (Setting("accelerator", "auto", "cpu or gpu"), PRECISION),
}
USAGE = {"fit": "--config configs/NAME.yaml", "evaluation": "[--run FOLDER]"}


def overview(package: str) -> str:
    """Return the help of the program: every verb in a line."""
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
            f"To begin: {program(package, 'fit --config configs/NAME.yaml')}",
            f"The flags of a verb: {program(package, 'VERB --help')}",
        ]
    )


def help_of(name: str, project: Project) -> str:
    """Return the help of a verb, or else of the program."""
    if name not in VERBS:
        return overview(project.package)
    if VERBS[name].tool:
        return parser_of(name, project.package).format_help().rstrip()
    return training_help(name, project)


def training_help(name: str, project: Project) -> str:
    """Return the flags that people change, on one screen: of the run, data, model and trainer."""
    called = program(project.package, name)
    base = _base_config()
    kind = "fit" if name == "fit" else "evaluation"
    runs = [_line(flag, text) for flag, text in RUNS[kind]]
    parts = [Part("data", project.data, "DataWithFlags", project, base)]
    if kind == "fit":  # a network is evaluated as it was trained
        parts.append(Part("model", project.task, "TaskWithFlags", project, base))
    trainer = [_setting_line("trainer", setting, base) for setting in TRAINER[kind]]
    while True:
        blocks = [
            [f"usage: {called} {USAGE[kind]} [flags]"],
            runs,
            *(part.lines() for part in parts),
            trainer,
            [f"All flags, with Lightning's: {called} --help-all"],
        ]
        text = "\n\n".join("\n".join(block) for block in blocks)
        longest = max(parts, key=lambda part: part.described)
        if text.count("\n") < LINES or not longest.described:
            return text
        longest.described -= 1


class Part:
    """A section of the configuration: the class's own settings first, then the engine's flags.

    Of its own settings the first `described` have a line each; all others are only named.
    """

    def __init__(
        self, section: str, named: str | type, flags: str, project: Project, base: dict[str, Any]
    ) -> None:
        self.section, self.base, self.remark = section, base, ""
        self.own: list[Setting] = []
        try:
            own = settings_of(named, project.package)
            linked = project.links.values()  # taken from the data
            self.own = [s for s in own if f"{section}.{s.name}" not in linked]
        except (Unreadable, RecursionError) as reason:
            self.remark = f"  --{section}.…: only --help-all can list these; {reason}"
        self.flags = [setting.name for setting in read_settings(PROJECT, flags)]
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
    """Return a flag and what it does, cut to the width of the screen."""
    flag = f"  {textwrap.shorten(flag, WIDTH // 2, placeholder=' …')}".ljust(COLUMN)
    return f"{flag} {textwrap.shorten(text, WIDTH - len(flag) - 1, placeholder=' …')}".rstrip()


def _base_config() -> dict[str, Any]:
    """Return configs/base.yaml, or nothing where it can't be read."""
    try:
        found = yaml.safe_load((project_root() / "configs" / "base.yaml").read_text())
    except (UserError, OSError, ValueError, yaml.YAMLError):
        return {}
    return found if isinstance(found, dict) else {}

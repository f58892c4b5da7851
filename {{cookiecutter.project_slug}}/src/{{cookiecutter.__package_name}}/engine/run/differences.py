"""What differs between the records of two runs: settings, data and environment."""

from collections.abc import Iterator
from typing import Any

# Settings that affect no bit of the result; the first ones depend on the machine.
MACHINE_SETTINGS = ("data.workers", "data.prefetch", "trainer.default_root_dir", "config")
IGNORED = (*MACHINE_SETTINGS, "tracking.", "checkpoints.", "ckpt_path", "trainer.enable_progress")


def differences(then: dict[str, Any], now: dict[str, Any]) -> Iterator[str]:
    """Yield the differences between two records: data, versions, hardware, torch's switches."""
    if "data" not in now:
        if now:
            yield f"data: changed and unreadable: {now['reason']}"
        return
    if then.get("data", {}).get("fingerprint") != now["data"]["fingerprint"]:
        yield "data: changed since the run was trained"
    for key, was, is_ in changed_environment(then, now):
        yield f"{key[0]}: {key[1]} was {was}, is {is_}"


def changed_environment(
    then: dict[str, Any], now: dict[str, Any]
) -> Iterator[tuple[tuple[str, str], Any, Any]]:
    """Yield ((part, key), value then, value now) of versions, hardware and torch's switches."""
    for part in ("versions", "hardware", "numerics"):
        was, is_ = dict(flat(then.get(part, {}))), dict(flat(now.get(part, {})))
        for key in sorted(was.keys() | is_.keys()):
            if was.get(key) != is_.get(key) and not (
                part == "hardware" and key in ("cores", "threads")
            ):
                yield (part, key), was.get(key), is_.get(key)


def flat(content: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted key, value) of nested mappings and lists."""
    items = content.items() if isinstance(content, dict) else enumerate(content)
    for key, value in items:
        if isinstance(value, (dict, list)):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value

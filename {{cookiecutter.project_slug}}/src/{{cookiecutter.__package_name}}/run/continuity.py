"""Whether a run still is what it was: the same steps, seed and data as it began with."""

from typing import Any

from ..errors import UserError


def check_resume(config: Any, was: dict[str, Any]) -> None:
    """Raise UserError if a run would go on with other steps, or another seed, than it began with.

    `was` is the configuration in the run's record.
    """

    def telling(of: Any) -> dict[str, Any]:
        data, trainer = of["data"], of["trainer"]
        at_once = data["batch_size"] * int(trainer["devices"]) * trainer["num_nodes"]
        return {
            "data.global_batch_size": data.get("global_batch_size"),  # not in the oldest records
            "data.batch_size x devices": at_once,
            "seed_everything": of["seed_everything"],
        }

    now, then = telling(config), telling(was)
    changed = [
        f"{key} was {then[key]}, is {now[key]}" for key in now if then[key] not in (None, now[key])
    ]
    if changed:
        raise UserError(
            f"The run can't go on: {'; '.join(changed)}. Its order of images counts in these steps."
            " Leave them as they were, or start a new run from its weights: --model.pretrained PATH"
        )


def check_data(record: dict[str, Any], found: dict[str, Any], resuming: bool) -> None:
    """Compare the data with those that a run was trained on.

    Raises UserError if a resume would go on with others; an evaluation is only warned.
    """
    if record.get("data", found)["fingerprint"] == found["fingerprint"]:
        return
    if resuming:
        raise UserError(
            "The data are not those that the run began with (images were added, removed or"
            " changed). Bring them back, or start a new run."
        )
    print(
        "warning: these are not the data that the run was trained on; where files came or went,"
        " the test images may be some that it has learned."
    )

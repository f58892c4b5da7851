"""The training rows that an epoch leaves out, because it has only whole steps."""

WORTH_A_NOTE = 0.1  # of the rows


def remark_on_left_out(
    n: int, batch_size: int, parts: int, unit: str, free: bool = True
) -> str | None:
    """Return a remark if each epoch leaves out a tenth or more of the n training rows.

    Args:
        n: the training rows. Fewer than a step are an error, not a remark.
        batch_size: rows of a micro-batch.
        parts: micro-batches of a step, over all devices.
        unit: what a row is, in the plural.
        free: whether the batch size can be changed alone. Then the remark names the one, of a third
            of it or more, that leaves out the fewest rows.
    """
    step = batch_size * parts
    left = n % step
    if n < step or left < WORTH_A_NOTE * n:
        return None
    remark = (
        f"each epoch leaves out {left} of {n} training {unit}, others each time, because only whole"
        f" steps of {step} are trained."
    )
    sizes = range(batch_size, batch_size // 3, -1)
    best = min(sizes, key=lambda size: n % (size * parts))  # the first, largest, of equal ones
    rest = n % (best * parts)
    if not free or rest >= WORTH_A_NOTE * n:
        return remark
    return f"{remark} --data.batch_size {best} {f'leaves out {rest}' if rest else 'uses all'}."

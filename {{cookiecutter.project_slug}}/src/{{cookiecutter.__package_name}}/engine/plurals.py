"""English words for one thing and for several."""


def plural(n: int, one: str, several: str | None = None) -> str:
    """Return the word for n things: plural(2, "row") is "rows", plural(2, "is", "are") is "are"."""
    return one if n == 1 else several or f"{one}s"


def counted(n: int, one: str, several: str | None = None) -> str:
    """Return a number and what is counted: counted(1, "row") is "1 row"."""
    return f"{n:,} {plural(n, one, several)}"

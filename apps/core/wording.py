"""Numbers in sentences."""


def many(count: int, one: str, several: str = "") -> str:
    """Return the count before the words for one, or those for several: by default with an s."""
    return f"1 {one}" if count == 1 else f"{count:,} {several or f'{one}s'}"

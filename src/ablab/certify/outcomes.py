"""How a check ends that does not pass: it raises one of these. What it returns is the line of one that passes."""


class Failed(Exception):  # noqa: N818 (what was found of a component, not an error of the program's)
    """The component breaks a promise; the message has the number and the first place."""


class Skipped(Exception):  # noqa: N818
    """The check has nothing to do with the component; the message says why."""


def require(holds: bool, otherwise: str) -> None:
    """Raises Failed where a promise is broken."""
    if not holds:
        raise Failed(otherwise)

"""What a request is told that cannot be answered."""

from __future__ import annotations

from ibot.errors import IbotError


class Refused(IbotError):
    """A request without an answer: an HTTP status beside what, why and what to do."""

    def __init__(self, status: int, what: str, *, why: str = "", fix: str = "") -> None:
        super().__init__(what, why=why, fix=fix)
        self.status = status


def told(error: IbotError) -> tuple[int, dict[str, str]]:
    """Status and JSON of an error."""
    status = error.status if isinstance(error, Refused) else 400
    return status, {"error": error.what, "why": error.why, "fix": error.fix}

"""Errors that a user can cause or cure, with their exit codes. Only `cli.main` catches them."""

from ibot.extras import command, extras, missing, name_of

INTERRUPTED = 130
"""Exit code of Ctrl-C."""
STOPPED = 75
"""Exit code of a training that a signal ended before its end: all is saved, the same command goes
on. A number that says so elsewhere too (EX_TEMPFAIL of sysexits.h)."""


class IbotError(Exception):
    """What went wrong, why, and what to do about it; printed without a traceback.

    what: one line, names the thing. why: the evidence. fix: the remedy, an exact command if there
    is one.
    """

    exit_code = 1

    def __init__(self, what: str, *, why: str = "", fix: str = "") -> None:
        super().__init__(what)
        self.what, self.why, self.fix = what, why, fix
        self.told = False
        """Whether another process prints it."""

    def __str__(self) -> str:
        lines = [self.what]
        if self.why:
            lines.append(f"  why:  {self.why}")
        if self.fix:
            lines.append(f"  fix:  {self.fix}")
        return "\n".join(lines)


class UserError(IbotError):
    """A wrong argument, setting, file or folder."""

    exit_code = 2


class ConfigError(UserError):
    """An unknown setting, a value of the wrong type, or settings that contradict each other."""


class DataError(UserError):
    """A data folder that cannot be used."""


class WeightsError(UserError):
    """A weights file that cannot be read or does not fit.

    Names and words of the file are in its messages: whatever stands in them, each stays one line of
    visible letters.
    """

    def __init__(self, what: str, *, why: str = "", fix: str = "") -> None:
        super().__init__(printable(what), why=printable(why), fix=printable(fix))


class RunError(UserError):
    """A run folder that is in use or belongs to another configuration."""


class MissingExtra(UserError):
    """An optional package that is not installed.

    package: its name where packages are installed. extra: of pyproject.toml, to which it belongs;
    the remedy names what else of it is missing, so that the next step meets no other.
    """

    def __init__(self, package: str, extra: str) -> None:
        known = {name_of(need): need for need in extras().get(extra, ())}
        others = [need for need in missing(extra) if name_of(need) != package]
        super().__init__(
            f"the package '{package}' is not installed",
            fix=command([known.get(package, package), *others]),
        )


class TrainingStopped(IbotError):
    """The training itself went wrong: non-finite loss, too many bad files."""

    exit_code = 3


class ResourceError(IbotError):
    """Disk full or memory exhausted."""

    exit_code = 4


def printable(name: str) -> str:
    """A name on one line: line ends, invisible letters and bytes that are no UTF-8 become
    escapes.
    """
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in name)

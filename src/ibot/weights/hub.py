"""Weights of the Hugging Face hub and of timm, fetched by the libraries that know them.

Their caches, their offline mode and their variables hold: HF_HOME, HF_HUB_OFFLINE, HF_ENDPOINT,
HF_TOKEN. Where the hub cannot be reached the copy in the cache serves.
"""

from __future__ import annotations

import difflib
import logging
import re
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from ibot.errors import MissingExtra, UserError, WeightsError

log = logging.getLogger("ibot")

WHOLE = (
    *("model.safetensors", "model.safetensors.index.json"),
    *("pytorch_model.bin", "pytorch_model.bin.index.json"),
)
"""Files of weights by their usual names, best first: a safetensors file cannot hold code."""
SETTINGS = ("config.json", "preprocessor_config.json")
SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt")
SECONDS = 20
"""Within which the hub answers what is in a repository."""


def from_hub_named(name: str) -> Path:
    """The file of `OWNER/NAME`, `OWNER/NAME@REVISION` or `OWNER/NAME/FILE`. Raises as `located`."""
    path, at, revision = name.partition("@")
    parts = path.split("/")
    # All become folders of the cache: nothing may lead out of it.
    words = [*parts, *(revision.split("/") if at else ())]
    if len(parts) < 2 or not all(re.fullmatch(r"\w[\w.+-]*", word) for word in words):
        raise WeightsError(
            f"'hf:{name}' names no repository",
            fix="write hf:OWNER/NAME, hf:OWNER/NAME@REVISION, or hf:OWNER/NAME/FILE",
        )
    return from_hub("/".join(parts[:2]), revision or "main", "/".join(parts[2:]), f"hf:{name}")


@lru_cache
def from_hub(repository: str, revision: str, file: str, name: str) -> Path:
    """A file of weights in a repository; its settings are fetched beside it.

    Asked once in a process: all parts of a command see the same commit.

    Args:
        repository: OWNER/NAME.
        revision: a branch, a tag or a commit.
        file: which one; empty: the usual one, or the only one.
        name: what the user wrote, for messages.

    Raises:
        WeightsError: no such repository, revision or file. UserError: it is not here, and the hub
            cannot be reached. MissingExtra: without huggingface_hub.
    """
    try:
        from huggingface_hub import HfApi, constants, snapshot_download
    except ImportError:
        raise MissingExtra("huggingface_hub", "hub") from None
    try:
        held = HfApi().model_info(repository, revision=revision, timeout=SECONDS)
        files = [one.rfilename for one in held.siblings or ()]
        chosen, wanted = _choose(files, file, name)
        here, _ = _in_cache(repository, revision)
        # What is there already needs no second look, and no bar of progress.
        if here.name != held.sha or not all((here / one).is_file() for one in wanted):
            here = Path(snapshot_download(repository, revision=revision, allow_patterns=wanted))
        return here / chosen
    except WeightsError:
        raise
    # Its errors are those of the library that it uses for HTTP, which changes with its version.
    except Exception as error:
        here, names = _in_cache(repository, revision)
        if not any(one.endswith(SUFFIXES) for one in names):
            raise _not_had(repository, revision, name, error) from None
        if not constants.HF_HUB_OFFLINE:
            log.warning("%s: the copy in the cache is used: %s", name, _line(error))
    return here / _choose(names, file, name)[0]


def from_timm(name: str) -> Path:
    """The file of a pre-trained model by its name in timm. Raises as `located`."""
    for other in ("hf-hub:", "hf_hub:"):  # as timm itself takes them
        if name.startswith(other):
            return from_hub_named(name.removeprefix(other))
    try:
        from timm.models import get_pretrained_cfg, list_pretrained
    except ImportError:
        raise MissingExtra("timm", "hub") from None
    try:
        known = get_pretrained_cfg(name)
    except RuntimeError:  # a tag that its model does not have
        known = None
    if known is None or not (known.file or known.hf_hub_id or known.url):
        nearest = difflib.get_close_matches(name, list_pretrained(), 3, 0.6)
        words = ", ".join(f"timm:{one}" for one in nearest)
        raise WeightsError(
            f"timm knows no pre-trained model '{name}'",
            fix=f"did you mean {words}?" if words else "see timm.list_pretrained()",
        )
    if known.file:
        return Path(known.file)
    if not known.hf_hub_id:
        raise WeightsError(
            f"'timm:{name}' is not on the Hugging Face hub",
            fix=f"download {known.url} and give the path of the file",
        )
    repository, _, revision = known.hf_hub_id.partition("@")
    file = known.hf_hub_filename or ""
    return from_hub(repository, revision or "main", file, f"timm:{name}")


def _choose(files: Iterable[str], wanted: str, name: str) -> tuple[str, list[str]]:
    """Of the files of a repository the one to read, and all that it needs beside it.

    Raises WeightsError where there is none, or where several could be meant.
    """
    files = sorted(files)
    weights = [one for one in files if one.endswith(SUFFIXES)]
    if wanted and wanted not in files:
        raise WeightsError(
            f"'{name}' is not there",
            why=f"the repository holds {', '.join(weights[:5]) or 'no weights'}",
            fix="name one of them",
        )
    chosen = wanted or next((one for one in WHOLE if one in files), "") or _only(weights)
    if not chosen:
        few = f"{', '.join(weights[:5])}{', ...' if weights[5:] else ''}"
        first = f"{'/'.join(name.split('@')[0].split('/')[:2])}/{weights[0]}" if weights else ""
        raise WeightsError(
            f"'{name}' holds {len(weights)} files of weights"
            if weights
            else f"'{name}' holds no weights",
            why=few or f"its files are {', '.join(files[:5])}",
            fix=f"name one, for example {first}" if weights else "name another repository",
        )
    folder = chosen.rpartition("/")[0]
    beside = [f"{folder}/{one}".lstrip("/") for one in SETTINGS]
    shards = []
    if chosen.endswith(".index.json"):
        end = "." + chosen.removesuffix(".index.json").rpartition(".")[2]
        shards = [one for one in weights if one.endswith(end) and "-of-" in one]
    return chosen, [chosen, *shards, *(one for one in beside if one in files)]


def _only(weights: list[str]) -> str:
    """The one file of weights, safetensors before others; empty where several could be meant."""
    for some in ([one for one in weights if one.endswith(".safetensors")], weights):
        if len(some) == 1:
            return some[0]
    return ""


def _in_cache(repository: str, revision: str) -> tuple[Path, list[str]]:
    """The folder of a revision as the library keeps it, and the files that are in it.

    CACHE/models--OWNER--NAME/refs/REVISION names a commit, whose files are in snapshots/COMMIT.
    """
    base = _cache_of(repository)
    reference = base / "refs" / revision
    commit = reference.read_text().strip() if reference.is_file() else revision
    folder = base / "snapshots" / commit
    return folder, [
        one.relative_to(folder).as_posix() for one in folder.rglob("*") if one.is_file()
    ]


def _cache_of(repository: str) -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE) / f"models--{repository.replace('/', '--')}"


def _not_had(repository: str, revision: str, name: str, error: Exception) -> UserError:
    """What the hub's refusal means for a user, or its silence."""
    from huggingface_hub import constants, errors

    place = _cache_of(repository)
    if isinstance(error, errors.GatedRepoError):
        return WeightsError(
            f"'{name}' is given to those only who accept its terms",
            why=_line(error),
            fix=f"accept them at {constants.ENDPOINT}/{repository}, then run: hf auth login",
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return WeightsError(f"'{name}' has no revision '{revision}'", fix="leave it out, or check")
    if isinstance(error, errors.RepositoryNotFoundError | errors.HFValidationError):
        nearest = difflib.get_close_matches(place.name, _cached(place.parent), 1, 0.6)
        owner, _, model = nearest[0].removeprefix("models--").partition("--") if nearest else "   "
        return WeightsError(
            f"there is no repository '{repository}' on {constants.ENDPOINT}, or it is private",
            fix=f"did you mean hf:{owner}/{model}, which is on this machine?"
            if nearest
            else "check its spelling on that page; for a private one: hf auth login",
        )
    why = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else _line(error)
    return UserError(
        f"'{name}' is not on this machine, and {constants.ENDPOINT} cannot be reached",
        why=why,
        fix=f"where there is a network: hf download {repository}; then copy {place.name} from its "
        f"~/.cache/huggingface/hub to '{place}'",
    )


def _cached(hub: Path) -> list[str]:
    """Folders of the repositories that are on this machine."""
    return [folder.name for folder in hub.glob("models--*")]


def _line(error: Exception) -> str:
    """The first line of what it says."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__

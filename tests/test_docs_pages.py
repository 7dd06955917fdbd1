"""Every command of README and docs/*.md is run, word by word, each page's in their order in one
folder, or it is listed here with the reason why not.
"""

import re
import shlex
import shutil
from functools import cache

import pytest
from doc_commands import PAGES, README, ROOT, blocks, commands, is_command, mentioned, run
from docs_world import special_images
from hub_cache import offline_hub

from ibot.cli.main import build_parser
from ibot.cli.parser import check_words
from ibot.errors import UserError

NOT_RUN = {
    "git clone": "needs the network",
    "cd ibot": "goes with it",
    "make env": "builds an environment: hours of downloads without a mirror",
    "make demo": "asked of make only (`make -n`); the demo is run by tests/cli/test_demo.py",
    "python3 -m venv": "an environment",
    ". .venv/bin/activate": "an environment",
    ".venv/bin/pip install": "packages from an index",
    "pip wheel": "packages from an index",
    "pip install": "packages from an index",
    "uv venv": "packages from an index",
    "docker run": "needs docker",
    "bash benchmarks/gpu.sh": "needs a GPU, and hours",
    "sbatch": "needs SLURM; the script itself is run by tests/system/test_cluster.py",
    "export IBOT_WEIGHTS_MIRROR": "a setting of the shell; tests/cli/test_named_weights.py sets it",
}
"""Beginnings of commands that no test can run, with the reason."""
ELSEWHERE = {
    "continuing.md": "tests/studies/test_continuing_page.py",
    "cluster.md": "tests/system/test_cluster.py",
    "weights.md": "tests/cli/test_named_weights.py",
    "python.md": "tests/test_python_docs.py",
}
"""Pages whose commands tests of their own run, with what each of them must have done."""
PYTHON_ELSEWHERE = {
    "README.md": "tests/test_readme.py",
    "pictures.md": "the lines that counted its table, of an index of 1,500 images",
    **ELSEWHERE,
}
"""Pages whose Python other tests run, or none."""
PLACEHOLDER = re.compile(r"(?<![\w.])(\.\.\.|[A-Z_]{3,}\b|\w+\|\w+|\[\w+)|\[--")
"""A word that a reader replaces, in a line that says how a command is written."""
QUICK = (
    "ibot features",
    "ibot eval knn",
    "ibot results",
    "ibot weights inspect",
    "ibot recipes",
    "ibot doctor",
    "make",
)
SPEED = ("--processes", "--device", "--steps", "system.", "log.", "checkpoint.", "evaluate.")
"""What a run may be given otherwise each time."""


def not_run(command):
    """Why, or nothing."""
    return next((why for start, why in NOT_RUN.items() if command.startswith(start)), "")


def syntax(command):
    """Whether a line says how a command is written, with words to replace."""
    return bool(PLACEHOLDER.search(command.partition("#")[0].replace("FILE.html", "")))


def to_run(page):
    """What of a page is run here, in order."""
    lines = commands(page)
    if page == README:
        lines += [words for words in mentioned(page) if complete(words)]
    return [line for line in dict.fromkeys(lines) if not not_run(line) and complete(line)]


def complete(command):
    """A command with nothing left to replace, and with all that it needs."""
    words = shlex.split(command, comments=True)
    if words[0].endswith("bin/ibot"):
        words[0] = "ibot"
    if words[0] != "ibot" or words[:2] == ["ibot", "ablate"]:
        return True
    return "..." not in words and parses(words[1:])


@cache
def parser():
    """That of the command, built once."""
    return build_parser()


def parses(words):
    """Whether a command line is one, settings left out."""
    try:
        options, extra = parser().parse_known_args(words)
        check_words(options, extra)
    except SystemExit as ended:
        return ended.code == 0
    except UserError:
        return False
    return True


def python_of(name):
    """Blocks of Python that are run here, after the page's commands."""
    return (
        [] if name in PYTHON_ELSEWHERE else [t for how, t in blocks(PAGES[name]) if how == "python"]
    )


OURS = [
    name for name in PAGES if name not in ELSEWHERE and (to_run(PAGES[name]) or python_of(name))
]


@pytest.mark.slow
@pytest.mark.parametrize("name", OURS)
def test_the_commands_of_a_page_do_what_they_say(name, docs_here, monkeypatch):
    lines = to_run(PAGES[name])
    text = " ".join(lines)
    if "hf:" in text:
        offline_hub(docs_here / "hub", ["owkin--phikon"], monkeypatch)
    if re.search("scenes|cells/|slides/|stack/", text):
        special_images(docs_here)
    for named in re.findall(r"photos/\w+\.\w+", text):
        if not (docs_here / named).exists():
            shutil.copy(docs_here / "photos" / "dog.jpg", docs_here / named)
    for line in lines:
        run(line)
    for block in python_of(name):
        exec(compile(block, str(PAGES[name]), "exec"), {"__name__": "page"})


def test_the_short_commands_of_the_readme_do_what_they_say(docs_here):
    lines = [line for line in to_run(README) if line.startswith(QUICK)]
    assert len(lines) >= 6
    for line in lines:
        run(line)


def test_every_command_of_a_block_is_run_or_listed_with_its_reason():
    seen = set()
    for name, page in PAGES.items():
        for line in commands(page):
            seen |= {start for start in NOT_RUN if line.startswith(start)}
            if name not in ELSEWHERE and not not_run(line) and not complete(line):
                assert syntax(line), f"{name}: {line}"
            assert not_run(line) or is_command(line), f"{name}: {line}"
    for name, test in ELSEWHERE.items():
        assert name in (ROOT / test).read_text()


@pytest.mark.parametrize("name", PAGES)
def test_every_command_that_a_page_names_exists_with_its_options(name):
    """Those within the text, too, and those of lines that only say how a command is written."""
    for command in [*commands(PAGES[name]), *mentioned(PAGES[name])]:
        words = command.partition(" #")[0].split()
        if words[0] == "ibot" and name != "faults.md":  # tells of what was wrong, and is no more
            assert not unknown(words[1:]), f"{command}: {unknown(words[1:])}"


def unknown(words):
    """Commands and options that there are not; for a protocol that is left open k-NN."""
    place, wrong = parser(), []
    if words[0] == "eval" and len(words) > 1 and not re.fullmatch(r"[a-z_|]+", words[1]):
        words = ["eval", "knn", *words[2:]]
    for word in words:
        subs = [a.choices for a in place._actions if isinstance(a.choices, dict)]
        if word.startswith("--"):
            option = re.match(r"--[\w-]*", word)[0]
            wrong += [] if option in place._option_string_actions else [word]
        elif subs and re.fullmatch(r"[a-z_|]+", word):
            for each in word.split("|"):
                if each not in subs[0]:
                    wrong.append(each)
            place = subs[0].get(word.split("|")[0], place)
    return wrong


def test_a_run_folder_never_stands_in_two_commands_with_different_settings():
    """Whoever copies commands one after the other must not be refused at the second."""
    settings = {}
    for name, page in PAGES.items():
        blocks = re.findall(r"^```(?:bash)?\n(.*?)^```", page.read_text(), re.S | re.M)
        lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
        for line in [*lines, *mentioned(page)]:
            found = re.search(r"ibot pretrain (?!-).* --run (runs/\w+)", line)
            if found and not syntax(line):
                own = settings_of(line[found.start() :].replace('"', " ").partition(" #")[0])
                settings.setdefault(found[1], {}).setdefault(own, []).append(f"{name}: {line}")
    assert len(settings) > 8
    for run_folder, ways in settings.items():
        assert len(ways) == 1, (run_folder, sorted(ways.values()))


def settings_of(command):
    """Recipe, data, start, length and settings of a training, in no order."""
    words = iter(command.split()[2:])
    kept = []
    for word in words:
        if word in ("--run", "--processes", "--device", "--steps"):
            next(words)
        elif word.startswith("--"):
            kept.append((word, next(words).strip("/")))
        elif not word.startswith(SPEED) and word not in ("<", "&", "/dev/null"):
            kept.append(("", word))
    return frozenset(kept)


@pytest.mark.parametrize("name", PAGES)
def test_the_links_of_a_page_lead_somewhere(name):
    page = PAGES[name]
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.S | re.M)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"https?:", target):
            continue
        place, _, anchor = target.partition("#")
        other = page.parent / place if place else page
        assert other.exists(), f"{name}: {target}"
        if anchor and other.suffix == ".md":
            assert anchor in anchors(other), f"{name}: {target}"


@pytest.mark.parametrize("name", PAGES)
def test_no_heading_of_a_page_stands_twice(name):
    """A merge may take a part of a page from both sides."""
    text = re.sub(r"^```.*?^```", "", PAGES[name].read_text(), flags=re.S | re.M)
    heads = re.findall(r"^#+ .*$", text, re.M)
    assert sorted(heads) == sorted(set(heads))


def anchors(page):
    """Names of headings as sites for code make them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.S | re.M)
    heads = re.findall(r"^#+ (.*)$", text, re.M)
    plain = [re.sub(r"[^\w\- ]", "", re.sub(r"[`*]", "", head).lower()) for head in heads]
    return {head.strip().replace(" ", "-") for head in plain}


@pytest.mark.parametrize("name", PAGES)
def test_a_page_says_nothing_twice(name):
    """As two versions of a page that were joined without a look do."""
    text = re.sub(r"^```.*?^```", "", PAGES[name].read_text(), flags=re.S | re.M)
    said = [part.strip() for part in re.split(r"\n\n+", text)]
    said = [part for part in said if part.startswith("#") or len(part) > 100]
    assert sorted({part for part in said if said.count(part) > 1}) == []

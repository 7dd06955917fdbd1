"""The page as one file."""

import base64
import hashlib
import json
import re
from html.parser import HTMLParser

import pytest
from commands import ibot
from explored import NAMES, PATCHES, explorer_of

from ibot.cli.main import main
from ibot.errors import UserError
from ibot.explore.browser.export import chosen_images, export
from ibot.explore.browser.one_file import whole_page
from ibot.words import encodable


class Page(HTMLParser):
    """Scripts, styles, policy, and whatever would be fetched."""

    def __init__(self, text):
        super().__init__()
        self.scripts, self.styles, self.policy, self.fetched, self.inside = [], [], "", [], ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.inside = tag
        if given.get("http-equiv") == "Content-Security-Policy":
            self.policy = given["content"]
        places = [given.get(name) for name in ("src", "href", "action")]
        self.fetched += [p for p in places if p and not p.startswith(("#", "data:"))]
        if tag in ("script", "style"):
            getattr(self, f"{tag}s").append("")

    def handle_endtag(self, tag):
        self.inside = ""

    def handle_data(self, data):
        if self.inside in ("script", "style"):
            getattr(self, f"{self.inside}s")[-1] += data

    @property
    def answers(self):
        first = self.scripts[0]
        assert first.startswith("window.IBOT_EXPORT = ") and first.endswith(";")
        return json.loads(first.removeprefix("window.IBOT_EXPORT = ")[:-1])


@pytest.fixture(scope="module")
def exported(explorer, tmp_path_factory):
    file = tmp_path_factory.mktemp("export") / "page.html"
    names = [f"a/{encodable(NAMES[4])}", "b/3.png"]
    made = export(explorer.session, file, names=names, words=4)
    assert made.images == names and made.size == file.stat().st_size
    return Page(file.read_text(encoding="utf-8"))


def test_nothing_is_fetched_and_no_other_script_runs(exported):
    assert exported.fetched == []
    assert len(exported.scripts) > 5 and len(exported.styles) >= 2
    kinds = dict(part.strip().split(" ", 1) for part in exported.policy.split(";"))
    assert kinds["default-src"] == "'none'" and "connect-src" not in kinds
    for kind, texts in (("script-src", exported.scripts), ("style-src", exported.styles)):
        digests = [base64.b64encode(hashlib.sha256(t.encode()).digest()).decode() for t in texts]
        assert kinds[kind] == " ".join(f"'sha256-{digest}'" for digest in digests)


def test_it_holds_what_the_server_answers(exported, client):
    answers = exported.answers
    words = client.get("/api/words?limit=4").json()["words"]
    assert [one["word"] for one in answers["/api/words"]["words"]] == [w["word"] for w in words]
    for word in words:
        assert answers[f"/api/mosaic/{word['word']}.webp"].startswith("data:image/webp;base64,")
        whole = client.get(f"/api/word/{word['word']}?limit=8").json()
        told = answers[f"/api/word/{word['word']}"]
        assert told["occurrences"] == whole["occurrences"] and told["uses"] == whole["uses"]
    a, b = (image["id"] for image in answers["/api/images"]["images"])
    for image in (a, b):
        assert answers[f"/api/image/{image}"] == client.get(f"/api/image/{image}").json()
        shown = base64.b64decode(answers[f"/api/image/{image}/pixels.jpg?view=1"].split(",")[1])
        assert shown == client.get(f"/api/image/{image}/pixels.jpg?view=1").content
        assert all(f"/api/patch?image={image}&patch={i}" in answers for i in range(PATCHES))
        assert f"/api/image/{image}/attention" in answers
    assert answers[f"/api/match?a={a}&b={b}"] == client.get(f"/api/match?a={a}&b={b}").json()
    points = base64.b64decode(answers["/api/map"]["points"])
    assert points == client.get("/api/map").content
    assert answers["/api/about"]["exported"]
    assert all(view["available"] for view in answers["/api/about"]["views"].values())


def test_windows_that_the_page_asks_for_are_in_it(exported):
    answers = exported.answers
    places = [
        one
        for address, told in answers.items()
        if "kind=class" not in address
        for one in (told.get("elsewhere", told.get("occurrences", ())) if "/api/" in address
                    and isinstance(told, dict) else ())
    ]  # fmt: skip
    assert len(places) > 20
    for one in places:
        assert f"/api/window.jpg?image={one['image']}&patch={one['patch']}" in answers


def test_places_of_this_machine_are_left_out(exported, run, images):
    text = json.dumps(exported.answers)
    assert str(run.parent) not in text and str(images.parent) not in text


def test_names_end_neither_script_nor_line():
    name = "</script><script>alert(1)</script>\u2028<!--\ud800"
    text = whole_page({"/api/images": {"images": [{"name": name}]}})
    page = Page(text)
    assert page.answers["/api/images"]["images"][0]["name"] == name
    assert "alert(1)</script>" not in text and "\u2028" not in page.scripts[0]
    assert len(re.findall("<script>", text)) == len(page.scripts)


def test_of_a_run_without_images_the_training_is_exported(run, tmp_path):
    session = explorer_of(run).session
    made = export(session, tmp_path / "page.html")
    assert made.words == 0 and made.images == []
    about = Page((tmp_path / "page.html").read_text()).answers["/api/about"]
    assert [name for name, view in about["views"].items() if view["available"]] == ["training"]


def test_names_that_no_image_has_are_refused(explorer):
    assert chosen_images(explorer.session, ["3.png"]) == chosen_images(
        explorer.session, ["b/3.png"]
    )
    for name in ("nothing.png", "../outside/secret.png"):
        with pytest.raises(UserError, match="is not the name of an image"):
            chosen_images(explorer.session, [name])
    assert len(chosen_images(explorer.session, [])) == 4


def test_the_command_writes_the_page_whole_or_not_at_all(run, images, tmp_path):
    file = tmp_path / "pages" / "page.html"
    given = ("explore", run, "--data", images, "--device", "cpu", "--words", 2, "--export")
    done = ibot(*given, file, "--images", "b/2.png")
    assert done.returncode == 0, done.stderr
    assert "words:            2" in done.stdout and "b/2.png" in done.stdout
    assert len(Page(file.read_text()).answers["/api/words"]["words"]) == 2
    before = file.read_bytes()
    refused = ibot(*given, file, "--images", "b/nothing.png")
    assert refused.returncode == 2 and file.read_bytes() == before
    assert [path.name for path in file.parent.iterdir()] == ["page.html"]
    assert ibot("explore", run, "--images", "b/2.png").returncode == 2


def test_a_page_without_images_is_refused_and_one_without_words_says_why(
    run, weights, images, tmp_path, monkeypatch, capsys
):
    file = tmp_path / "page.html"
    assert main(["explore", str(run), "--export", str(file)]) == 2
    assert "--data" in capsys.readouterr().err and not file.exists()
    monkeypatch.setenv("HOME", str(tmp_path))
    given = ["explore", str(weights), "--data", str(images), "--device", "cpu", "--export"]
    assert main([*given, str(file)]) == 0
    printed = capsys.readouterr()
    assert "no words to see: these weights have no projection head" in printed.err
    assert "words:            0" in printed.out and file.exists()

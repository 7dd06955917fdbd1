"""The report of a run: one page, whatever state the run is in and whatever its files are called."""

import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from pages import NAMES, Page
from PIL import Image
from told_runs import (
    COMMAND,
    VERDICT,
    event,
    knn,
    provenance,
    row,
    saved,
    settings,
    write_run,
)

from ibot.cli.main import main
from ibot.config.override import items
from ibot.config.schema import Config
from ibot.report.pictures import BUDGET, of_the_run
from ibot.report.run_report import write_report

START = event("start")
ELEMENTS = set(
    re.findall(
        "[a-z0-9]+",
        "html head meta title style body main header section footer p h1 h2 h3 ul li table thead "
        "tbody tr th td div span small strong b code pre bdi details summary figure svg desc g "
        "path rect circle text",
    )
)
"""All that a page without pictures has."""


def reported(run):
    """The page about a run."""
    write_report(run, run / "report.html")
    return Page(run / "report.html")


def said(page):
    """All texts of a page as one."""
    return " ".join(text for _, text in page.texts)


def test_the_summary_says_what_was_trained_for_how_long_and_what_it_learnt(tmp_path, capsys):
    assert main(["report", str(write_run(tmp_path / "told"))]) == 0
    page = Page(tmp_path / "told" / "report.html")
    text = said(page)
    assert "A ViT of 5 blocks, width 128, 4 heads, patch 8 was pre-trained by the recipe" in text
    assert "1,280 images of" in text and "(10 classes), for 1,920 images seen" in text
    assert "(30 of 6,250 steps, 1.5 epochs), in 30 seconds of training at 64 images/s" in text
    assert "went from 30.0\u00a0% (95\u00a0% interval 21.9 to 39.6) with random weights to" in text
    assert "50.0\u00a0% (95\u00a0% interval 40.4 to 59.6)" in page.text("strong")
    assert "after step 30, on 100 validation images; chance is about 10\u00a0%." in text
    assert page.text("h1") == ["told"] or page.text("bdi")[0] == "told"
    assert (
        "stopped as asked" in page.text("span")
        and "The health log has no complaint, and few" in text
    )
    out, _ = capsys.readouterr()
    assert f"report: {tmp_path / 'told' / 'report.html'}" in out and "stopped as asked" in out


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A page with every part but pictures."""
    events = [START, VERDICT, event("end", step=30)]
    return reported(write_run(tmp_path_factory.mktemp("whole"), events=events))


def test_every_part_is_on_the_page_and_every_picture_is_well_formed(whole):
    page = whole
    assert {tag for tag, _ in page.elements} == ELEMENTS
    assert page.text("h2") == [
        "What to do next",
        "Curves",
        "Schedules, gradients, speed",
        "Verdicts of the health log",
        "Results",
        "Settings",
        "Where it comes from",
    ]
    charts = re.findall(r"<svg .*?</svg>", page.source, flags=re.DOTALL)
    assert len(charts) > 15
    for drawing in charts:
        ElementTree.fromstring(drawing)
    titles = " ".join(page.text("h3"))
    for title in ("k-NN accuracy", "Loss", "Entropy", "KL", "rank", "Prototypes", "Learning rate"):
        assert title in titles
    text = said(page)
    assert VERDICT["evidence"] in text and VERDICT["advice"] in text
    assert "40.38 to 59.62" in page.text("td") and "50.00" in page.text("td")
    assert COMMAND in page.text("code")


def test_settings_that_differ_stand_above_all_of_them(whole):
    codes = whole.text("code")
    first = codes.index("model.patch")
    assert codes[first : first + 3] == ["model.patch", "8", "16"]
    assert [f"All {len(list(items(Config())))} settings"] == [
        text for text in whole.text("summary") if "settings" in text
    ]
    assert codes.count("model.width") == 1 and codes.count("model.patch") == 2


def test_the_page_needs_nothing_else(tmp_path):
    run = write_run(tmp_path)
    (run / "pictures").mkdir()
    Image.new("RGB", (40, 30), "red").save(run / "pictures" / "a.png")
    page = reported(run)
    links = [
        value
        for _, attrs in page.elements
        for key, value in attrs.items()
        if key in ("src", "href", "srcset", "action", "data", "xlink:href")
    ]
    assert len(links) == 1 and links[0].startswith("data:image/jpeg;base64,")
    assert not re.search(r"url\(|@import|://", page.source)
    assert not page.all("script") and not page.all("link")
    (policy,) = page.all("meta", **{"http-equiv": "Content-Security-Policy"})
    assert policy["content"].startswith("default-src 'none'")
    assert "prefers-color-scheme: dark" in page.source and "@media print" in page.source


def test_verdicts_have_the_evidence_of_each_time_until_they_are_many(tmp_path):
    many = [{**VERDICT, "step": step, "evidence": f"of step {step}."} for step in range(1, 9)]
    few = [{**VERDICT, "step": step, "verdict": "b", "evidence": f"b {step}."} for step in (3, 7)]
    text = said(reported(write_run(tmp_path, events=[START, *many, *few])))
    shown = [step for step in range(1, 9) if f"of step {step}." in text]
    assert shown == [1, 2, 3, 8] and "said 8 times" in text
    assert "b 3." in text and "b 7." in text


def test_the_page_says_what_set_the_pace_and_shows_the_stages(tmp_path):
    told = "38% of the time goes into waiting; decode limits. 6 workers would do; <4> are in use"
    seconds = {"decode_seconds": 0.9, "render_seconds": 0.4, "step_seconds": 0.2}
    rows = [row(step, **seconds) for step in (10, 20, 30)]
    events = [START, event("pace", step=30, text=told), event("end", step=30)]
    page = reported(write_run(tmp_path, rows=rows, events=events))
    text = said(page)
    assert "What set the pace: 38% of the time" in text and "<4> are in use" in text
    assert "Stages of a step" in text
    before = said(reported(write_run(tmp_path / "before", events=[START, event("end", step=30)])))
    assert "set the pace" not in before and "Stages of a step" not in before


def test_a_run_that_was_only_begun_has_a_page_without_curves(tmp_path):
    page = reported(write_run(tmp_path, rows=[], events=[START], results=[]))
    assert "begun" in page.text("span") and "nothing has been logged." in said(page)
    assert "Curves" not in page.text("h2") and "Nothing has been measured." in page.text("p")


def test_an_empty_folder_has_a_page_that_says_so(tmp_path):
    assert "The folder holds no settings" in said(reported(tmp_path))


def test_a_converted_run_names_the_checkpoint_it_was(tmp_path):
    source = provenance(converted_from="published/checkpoint.pth")
    run = saved(write_run(tmp_path, rows=[], events=[START], results=[], source=source))
    page = reported(run)
    assert "converted" in page.text("span") and "published/checkpoint.pth" in page.text("bdi")
    assert "Train it on" in said(page)


def test_a_converted_run_that_was_trained_on_tells_its_own_time(tmp_path):
    source = provenance(converted_from="published/checkpoint.pth")
    start = event("start", command="ibot pretrain runs/told/config.json")
    events = [START, start, event("resume", step=1000), event("end", step=1020)]
    page = reported(write_run(tmp_path, rows=[row(1010), row(1020)], events=events, source=source))
    text = said(page)
    assert "; trained on here, to 65,280 images seen (1,020 of 6,250 steps" in text
    assert "in 20 seconds of training at 64 images/s" in text and "stopped as asked" in page.text(
        "span"
    )
    assert COMMAND in page.text("code") and start["command"] in page.text("code")


def test_files_that_were_not_read_and_reasons_of_auto_are_listed(tmp_path):
    run = write_run(tmp_path, events=[event("choices", reasons=["batch 128: few"]), START])
    (run / "bad_files.jsonl").write_text('{"path": "a.jpg", "reason": "cut"}\n')
    page = reported(run)
    assert "batch 128: few" in page.text("li") and "1 file could not be read" in said(page)
    assert "a.jpg" in page.text("bdi")


def test_names_cannot_leave_their_place(tmp_path):
    name = " ".join(NAMES)
    config = {**settings(), "recipe": name, name: {name: name}}
    config["data"]["path"] = name
    config["command"] = f"ibot {name}"
    run = write_run(
        tmp_path,
        rows=[row(10, health=name), row(20)],
        events=[
            event("choices", reasons=[name]),
            {**VERDICT, "verdict": name, "evidence": name, "advice": name},
            event("failed", what=name, why=name, fix=name, time=name),
        ],
        results=[knn(0, 3.0), knn(9, 5.0, row=name, metric=name, when=name)],
        config=config,
        source={name: name, "packages": {name: name}, "data": {"root": name, "names_sha256": name}},
    )
    page = reported(run)
    assert {tag for tag, _ in page.elements} <= ELEMENTS
    assert not page.all("script") and not page.all("img")
    for drawing in re.findall(r"<svg .*?</svg>", page.source, flags=re.DOTALL):
        ElementTree.fromstring(drawing)
    handlers = [key for _, attrs in page.elements for key in attrs if key.startswith("on")]
    assert handlers == []


def test_a_page_of_many_pictures_stays_small_and_says_what_it_left_out(tmp_path):
    run = write_run(tmp_path)
    folder = run / "seg" / "pictures" / "deep"
    folder.mkdir(parents=True)
    noise = np.random.default_rng(0).integers(0, 256, (300, 420, 3), dtype=np.uint8)
    Image.new("RGB", (1400, 100), "blue").save(folder / "0.png")
    for number in range(11, 35):
        Image.fromarray(noise[number:]).save(folder / f"{number}.png", compress_level=0)
    (folder / "broken.png").write_bytes(b"\x89PNG nothing")
    (folder / "notes.txt").write_text("no picture")
    gallery = of_the_run(run)
    assert gallery.shown and gallery.left_out + len(gallery.shown) == 26
    assert gallery.shown[0].title == "seg/pictures/deep/0.png"
    page = reported(run)
    assert f"{gallery.left_out} more are left out" in said(page)
    assert len(page.images()) == len(gallery.shown)
    assert max(max(image.size) for image in page.images()) == 900
    assert BUDGET < (run / "report.html").stat().st_size < 2 * 2**20


def test_pictures_of_evaluations_are_shown_and_what_they_were_drawn_from_is_not(tmp_path):
    wanted = ["match-dcac3435ea57/00.png", "retrieval-0123456789ab.png", "video/overlays/a.png"]
    other = ["match-dcac3435ea57/00_first.jpg", "video/masks/a.png", "checkpoints/a.png"]
    for name in wanted + other:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    assert sorted(shown.title for shown in of_the_run(tmp_path).shown) == wanted


def test_transparent_pictures_lie_on_white(tmp_path):
    (tmp_path / "pictures").mkdir()
    Image.new("RGBA", (8, 8), (0, 0, 0, 0)).save(tmp_path / "pictures" / "a.png")
    (image,) = reported(write_run(tmp_path)).images()
    assert image.getpixel((4, 4)) == (255, 255, 255)


def test_an_earlier_report_is_replaced_and_a_foreign_file_is_not(tmp_path, capsys):
    run = write_run(tmp_path / "run")
    first = reported(run).source
    (run / "metrics.jsonl").write_text("")
    assert reported(run).source != first
    foreign = tmp_path / "thesis.html"
    foreign.write_text("mine")
    assert main(["report", str(run), "--out", str(foreign)]) == 2
    assert "is in the way" in capsys.readouterr().err and foreign.read_text() == "mine"
    assert main(["report", str(run), "--out", str(tmp_path / "deep" / "new.html")]) == 0
    assert (tmp_path / "deep" / "new.html").is_file()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["runs/a", "runs/b c"], "ibot results runs/a 'runs/b c'"),
        (["nowhere"], "does not exist"),
        (["file"], "is a file"),
        ([".", "--out", "."], "is a folder"),
    ],
)
def test_what_cannot_be_reported_is_refused(tmp_path, monkeypatch, capsys, arguments, words):
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    assert main(["report", *arguments]) == 2
    assert words in capsys.readouterr().err and not Path("report.html").exists()


def test_a_run_left_by_an_earlier_version_has_a_page(tmp_path):
    old = Path(__file__).parents[1] / "before" / "left" / "run"
    assert main(["report", str(old), "--out", str(tmp_path / "report.html")]) == 0
    page = Page(tmp_path / "report.html")
    assert "diverging" in page.text("strong") and "Curves" in page.text("h2")

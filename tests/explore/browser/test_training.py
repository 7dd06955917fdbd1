"""The training: curves that follow a file while it grows, read, enlarged, and left alone."""

import contextlib
import fcntl
import json
import re

import pytest
from playwright.sync_api import expect

BATCH = 64


def row(step):
    """What a training logs of a step, as far as the curves need it."""
    return {
        "step": step,
        "images_seen": BATCH * step,
        "epoch": step / 8,
        "cls_loss": 2.3 - step / 1000,
        "patch_loss_masked": 2.2 - step / 500,
        "ln_k": 2.302585,
        "ln_k_patch": 2.302585,
        "effective_rank": 4 + step / 100,
        "grad_backbone": 10 / step,
        "grad_head_mlp": 0.2,
        "lr": 0.001,
    }


def append(path, *rows):
    with path.open("a") as file:
        file.writelines(json.dumps(line) + "\n" for line in rows)


@pytest.fixture
def trained(run):
    """The run with ten lines of its log and a verdict, as a process that trains would hold it."""
    events = run / "events.jsonl"
    before = events.read_bytes()
    append(run / "metrics.jsonl", *(row(step) for step in range(10, 110, 10)))
    verdict = {
        "event": "health",
        "step": 40,
        "verdict": "collapse",
        "evidence": "12 of 1,024 <b>prototypes</b> in use",
        "advice": "lower `optim.lr`",
    }
    append(events, verdict)
    with (run / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield run
    (run / "metrics.jsonl").unlink()
    (run / "lock").unlink()
    events.write_bytes(before)


@pytest.fixture(scope="module")
def timed_tab(open_tab, address):
    """A tab whose clock is the test's."""
    page = open_tab()
    page.clock.install()
    yield page
    page.close()
    page.watched.check(address)


@pytest.fixture
def training_page(timed_tab, trained):
    page = timed_tab
    page.mouse.move(0, 0)
    page.goto("/#/nowhere")
    page.wait_for_selector(".state")
    page.goto("/#/training")
    page.wait_for_selector(".chart")
    return page


def chart(page, name):
    return page.locator(f'.chart[data-curve="{name}"]')


def at_share(page, name, share):
    """The place on the screen of a share of a chart's width."""
    box = chart(page, name).locator(".chart-picture").bounding_box()
    return box["x"] + 46 + share * (box["width"] - 58), box["y"] + 60


def point_at(page, name, share):
    chart(page, name).scroll_into_view_if_needed()
    page.mouse.move(*at_share(page, name, share))


def test_curves_stand_beside_their_levels_with_the_last_values(training_page):
    loss = chart(training_page, "loss")
    expect(loss.locator("path.line-1")).to_have_count(2)  # the line, and its sample
    assert loss.locator(".level").count() == 1
    assert "ln K" in loss.locator(".level-name").text_content()
    assert loss.locator(".chart-keys li").first.text_content().endswith("2.20")
    assert "from 2.29 to 2.20" in loss.locator(".chart-picture").get_attribute("aria-label")
    expect(training_page.locator(".training-line")).to_contain_text("Training now")
    dashes = [
        training_page.evaluate(
            "at => getComputedStyle(document.querySelectorAll("
            "'[data-curve=loss] .chart-picture path.line')[at]).strokeDasharray",
            number,
        )
        for number in (0, 1)
    ]
    assert dashes[0] != dashes[1], "lines differ without their colours"


def test_one_pointer_reads_all_curves(training_page):
    point_at(training_page, "loss", 0.5)
    reading = training_page.locator(".reading")
    expect(reading).to_contain_text("3,200 images")
    expect(reading).to_contain_text("step 50")
    for name, value in (("loss", "2.25"), ("rank", "4.50"), ("gradients", "0.2")):
        expect(chart(training_page, name).locator(".chart-keys li").first).to_contain_text(value)
        assert chart(training_page, name).locator(".cursor line").count() == 1


def test_the_page_follows_a_file_that_grows_and_leaves_the_reader_alone(training_page, trained):
    point_at(training_page, "loss", 0.5)
    reading = training_page.locator(".reading")
    expect(reading).to_contain_text("step 50")
    append(trained / "metrics.jsonl", *(row(step) for step in range(110, 210, 10)))
    training_page.clock.fast_forward(5100)
    expect(training_page.locator(".training-line")).to_contain_text("12,800")
    expect(reading).to_contain_text("step 50")
    training_page.mouse.move(*at_share(training_page, "loss", 0.5))
    expect(reading).to_contain_text("step 100")
    # A range that is enlarged stays as it is, whatever comes after it.
    training_page.mouse.move(*at_share(training_page, "rank", 0.25))
    training_page.mouse.down()
    training_page.mouse.move(*at_share(training_page, "rank", 0.75), steps=4)
    training_page.mouse.up()
    expect(training_page.get_by_role("button", name="Show all")).to_be_visible()
    ticks = chart(training_page, "loss").locator(".tick").all_text_contents()
    append(trained / "metrics.jsonl", row(210) | {"effective_rank": 4})
    training_page.clock.fast_forward(5100)
    expect(training_page.locator(".training-line")).to_contain_text("13,440")
    assert chart(training_page, "loss").locator(".tick").all_text_contents() == ticks
    training_page.get_by_role("button", name="Show all").click()
    assert chart(training_page, "loss").locator(".tick").all_text_contents() != ticks


def test_a_page_that_nobody_sees_asks_nothing(training_page, trained):
    asked = []
    training_page.on("request", lambda request: asked.append(request.url))
    hidden = """hidden => {
        Object.defineProperty(document, "hidden", { get: () => hidden, configurable: true });
        document.dispatchEvent(new Event("visibilitychange"));
    }"""
    training_page.evaluate(hidden, True)
    training_page.clock.fast_forward(60_000)
    append(trained / "metrics.jsonl", row(110))
    assert not [url for url in asked if "/api/training" in url]
    training_page.evaluate(hidden, False)
    expect(training_page.locator(".training-line")).to_contain_text("7,040")


def test_a_run_that_is_deleted_keeps_its_curves_and_says_so(training_page, trained):
    training_page.watched.allow("410")
    away = trained.with_name("elsewhere")
    trained.rename(away)
    try:
        training_page.clock.fast_forward(5100)
        expect(training_page.locator(".training-line")).to_contain_text("folder is gone")
        expect(chart(training_page, "loss")).to_be_visible()
    finally:
        away.rename(trained)
    training_page.clock.fast_forward(30_100)
    expect(training_page.locator(".training-line")).to_contain_text("Training now")


def test_a_run_without_numbers_says_what_is_missing_until_they_come(timed_tab, run):
    page = timed_tab
    page.goto("/#/nowhere")
    page.goto("/#/training")
    expect(page.locator(".state")).to_be_visible()
    assert page.locator(".chart").count() == 0
    with contextlib.ExitStack() as left:
        left.callback((run / "metrics.jsonl").unlink)
        append(run / "metrics.jsonl", row(10), row(20))
        page.clock.fast_forward(30_100)
        expect(chart(page, "loss")).to_be_visible()
        expect(page.locator(".training-line")).to_contain_text("has ended")


def test_verdicts_are_marks_on_the_axis_with_evidence_and_advice(training_page):
    verdict = training_page.locator(".verdicts li")
    expect(verdict).to_contain_text("12 of 1,024 <b>prototypes</b> in use")
    assert verdict.locator("b").count() == 0
    assert verdict.locator("code").text_content() == "optim.lr"
    assert chart(training_page, "loss").locator(".verdict-mark").count() == 1
    verdict.get_by_role("button").click()
    expect(training_page.locator(".reading")).to_contain_text("step 40")


def test_the_axis_reads_images_epochs_or_steps_and_steep_curves_have_a_log_scale(training_page):
    training_page.get_by_text("steps", exact=True).click()
    training_page.wait_for_function("() => location.hash.includes('x=steps')")
    assert "100" in chart(training_page, "loss").locator(".tick").all_text_contents()
    assert chart(training_page, "rank").get_by_role("button").count() == 0
    log = chart(training_page, "gradients").get_by_role("button", name="log")
    line = chart(training_page, "gradients").locator(".chart-picture path.line-1")
    linear = line.get_attribute("d")
    log.click()
    expect(log).to_have_attribute("aria-pressed", "true")
    assert line.get_attribute("d") != linear


def test_arrows_read_values(training_page):
    picture = chart(training_page, "loss").locator(".chart-picture")
    picture.focus()
    training_page.keyboard.press("ArrowLeft")
    expect(training_page.locator(".reading")).to_contain_text("step 100")
    training_page.keyboard.press("ArrowLeft")
    expect(training_page.locator(".reading")).to_contain_text("step 90")
    expect(training_page.locator("#announced")).to_have_text(re.compile("step 90.*2.21"))
    training_page.keyboard.press("Escape")
    expect(training_page.locator(".reading")).to_contain_text("Point at a curve")


def test_the_training_is_no_wider_than_the_window(page, trained):
    page.goto("/#/training")
    page.wait_for_selector(".chart")
    for width in (360, 800, 1440):
        page.set_viewport_size({"width": width, "height": 740})
        widths = page.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
        assert widths[0] <= widths[1]

"""Two images side by side, and two checkpoints."""

import math
import re

import numpy as np
from playwright.sync_api import expect


def point(page, side, row, col, grid=(4, 4)):
    stage = page.locator(".stage").nth(side)
    box = stage.bounding_box()
    at = {"x": (col + 0.5) * box["width"] / grid[1], "y": (row + 0.5) * box["height"] / grid[0]}
    stage.hover(position=at)


def test_pointing_at_a_patch_shows_its_match(page, ask):
    page.goto("/#/compare?a=0&b=8")
    page.wait_for_selector(".stage")
    for side, asked in ((0, "a=0&b=8"), (1, "a=8&b=0")):
        found = ask(f"/api/match?{asked}&c=1")
        point(page, side, 2, 1)
        row, col = divmod(found["match"][9], 4)
        readout = page.locator(".readout")
        expect(readout).to_contain_text(f"row 3, column 2 → row {row + 1}, column {col + 1}")
        expect(readout).to_contain_text(f"cosine {found['cosine'][9]:.3f}")
        expect(readout).to_contain_text("✓ mutual" if found["mutual"][9] else "not mutual")
        mark = page.locator(".stage").nth(1 - side).locator(".picked").get_attribute("d")
        assert mark.startswith(f"M{col} {row}h1")
        assert page.locator(".lines .match").count() == 1
    page.mouse.move(5, 5)
    expect(page.locator(".lines .match")).to_have_count(0)
    page.get_by_text("best matches").click()
    page.mouse.move(5, 5)
    mutual = sum(ask("/api/match?a=0&b=8&c=1")["mutual"])
    expect(page.locator(".lines .match")).to_have_count(min(mutual, 16))
    expect(page.locator(".readout")).to_contain_text(f"{mutual} of 16 matches are mutual")


def test_it_begins_with_a_nearest_pair(page, ask):
    sides = page.locator(".side-name a")
    for asked in ("", "?a=8"):
        found = ask(f"/api/pair{asked}")
        page.goto("/#/nowhere")
        page.goto(f"/#/compare{asked}")
        for at, key in enumerate("ab"):
            expect(sides.nth(at)).to_have_attribute("href", f"#/image/{found[key]}")


def test_attention_says_where_it_is_measured(page, ask):
    page.goto("/#/compare?a=0&b=8&layer=attention")
    told = ask("/api/image/0/attention")["told"]
    expect(page.locator(".told-layer")).to_contain_text(told[1:])


def test_a_match_is_kept_by_the_address_and_found_with_arrow_keys(page):
    page.goto("/#/compare?a=0&b=1")
    page.wait_for_selector(".stage")
    page.locator(".stage").nth(1).focus()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile("patch=9"))
    page.reload()
    expect(page.locator(".readout")).to_contain_text("right to left")
    page.keyboard.press("x")
    expect(page).to_have_url(re.compile("a=1&b=0"))


def test_two_checkpoints_of_one_image_tell_which_words_stayed(page, ask):
    page.goto("/#/compare?a=2")
    page.get_by_text("Two checkpoints").click()
    expect(page).to_have_url(re.compile("mode=checkpoints"))
    then, later = (np.array(ask(f"/api/image/2?c={c}")["words"]) for c in (0, 1))
    page.get_by_text("of the patches have the same word at both").wait_for()
    share = (then == later).mean()
    # As JavaScript rounds: halves up.
    text = f"{math.floor(100 * share + 0.5)} %" if share >= 0.1 else f"{100 * share:.1f} %"
    assert text in page.locator(".toolbar .push").inner_text()
    point(page, 0, 3, 3)
    expect(page.locator(".readout")).to_contain_text(f"word {then[15]}")
    expect(page.locator(".readout")).to_contain_text(f"word {later[15]}")
    page.get_by_text("Attention", exact=True).click()
    expect(page).to_have_url(re.compile("layer=attention"))

"""The frame around the views: widths, colours, states, the way back."""

import re

import pytest
from playwright.sync_api import expect

from ibot.explore.browser.one_file import PAGE

PLACES = {
    "#/words": ".card",
    "#/word/0": ".view-word h1",
    "#/image": ".gallery .tile",
    "#/image/0?patch=5&layer=attention": ".panel-head",
    "#/compare?a=0&b=1&lines=1": ".pair",
    "#/map": ".near-list a",
}


def test_the_page_is_small_and_holds_no_markup_of_others():
    files = [path for path in PAGE.iterdir() if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 300_000
    for path in files:
        text = path.read_text(encoding="utf-8")
        assert not any(way in text for way in ("innerHTML", "outerHTML", "insertAdjacent", "eval("))
        assert "http://" not in text.replace("http://www.w3.org/2000/svg", "")
        assert "https://" not in text


def test_no_view_is_wider_than_the_window(page):
    for place, there in PLACES.items():
        page.goto("/" + place)
        page.wait_for_selector(there)
        for width in (360, 800, 1440):
            page.set_viewport_size({"width": width, "height": 800})
            root = page.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
            assert root[0] <= root[1], f"{place} at {width}"


def test_colours_are_those_that_the_system_asks_for(page):
    for scheme in ("dark", "light"):
        page.emulate_media(color_scheme=scheme)
        paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, paper[4:-1].split(","))) > 3 * 128) == (scheme == "light")


def test_the_focus_stays_where_it_was_when_a_view_opens_anew(page):
    page.goto("/#/words")
    page.wait_for_selector(".card")
    order = page.get_by_label("By", exact=True)
    order.focus()
    page.keyboard.press("ArrowDown")
    expect(page).to_have_url(re.compile("sort="))
    expect(order).to_be_focused()
    page.goto("/#/image/0")
    page.get_by_label("Next image").focus()
    for number in (1, 2):
        page.keyboard.press("Enter")
        expect(page).to_have_url(re.compile(f"#/image/{number}$"))
        expect(page.get_by_label("Next image")).to_be_focused()
    attention = page.get_by_role("radio", name="Attention")
    page.get_by_role("radio", name="Words").focus()
    page.keyboard.press("ArrowRight")
    expect(attention).to_be_checked()
    expect(attention).to_be_focused()


def test_the_switch_of_colours_stays(page):
    page.goto("/#/words")
    button = page.locator("#theme")
    button.click()
    button.click()
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    page.reload()
    page.wait_for_selector(".card")
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"


def test_the_back_button_walks_through_views(page):
    page.goto("/#/words")
    page.wait_for_selector(".card")
    page.get_by_role("link", name="Image", exact=True).click()
    page.locator(".gallery .tile").nth(2).click()
    page.wait_for_selector(".stage")
    page.keyboard.press("w")  # layers are no steps of the way
    page.keyboard.press("v")
    page.go_back()
    page.wait_for_selector(".gallery")
    page.go_back()
    page.wait_for_selector(".cards")
    page.go_forward()
    page.wait_for_selector(".gallery")


def test_a_view_that_is_left_does_not_change_the_address(page):
    page.goto("/#/image/0")
    page.wait_for_selector(".stage")
    page.evaluate("""() => {
        location.hash = "#/compare?a=0&b=1";
        ibot.go({ strength: 20 }, { quiet: true, replace: true }); // before `hashchange` comes
    }""")
    page.wait_for_selector(".pair")
    assert page.url.endswith("#/compare?a=0&b=1")


def test_the_checkpoint_travels_with_the_links(page):
    page.goto("/#/words")
    page.locator("#checkpoint").select_option("0")
    expect(page).to_have_url(re.compile(re.escape("#/words?c=0") + "$"))
    page.locator(".card").first.click()
    expect(page).to_have_url(re.compile(r"#/word/\d+\?c=0$"))
    page.keyboard.press("C")
    expect(page).not_to_have_url(re.compile("c=0"))
    expect(page.locator("#checkpoint")).to_have_value("1")


def test_it_waits_for_the_server_and_says_so(new_page, ask):
    page = new_page()
    about, times = ask("/api/about"), []

    def loading(route):
        times.append(1)
        state = "loading" if len(times) < 3 else "ready"
        route.fulfill(json={**about, "state": state, "why": "opening the images"})

    page.route("**/api/about", loading)
    page.goto("/#/words")
    page.get_by_text("opening the images").wait_for()
    page.wait_for_selector(".card")


def test_it_comes_back_when_the_server_does(new_page):
    page = new_page()
    page.watched.allow("ERR_FAILED")
    page.goto("/#/words")
    page.wait_for_selector(".card")
    page.route("**/api/**", lambda route: route.abort())
    page.keyboard.press("2")
    expect(page.locator("#connection")).to_be_visible()
    page.get_by_text("does not answer.").first.wait_for()
    page.unroute("**/api/**")
    page.wait_for_selector(".gallery .tile")
    expect(page.locator("#connection")).not_to_be_visible()


@pytest.mark.parametrize(
    ("changes", "place", "told"),
    [
        ({"words": None, "head": False}, "#/words", "no head"),
        ({"words": None, "head": True}, "#/words", "ibot index"),
        ({"state": "failed", "why": "the index is of other images"}, "#/words", "other images"),
        ({}, "#/nowhere", "Nothing has this address"),
        ({}, "#/compare/8/drop-9", "Nothing has this address"),
        ({}, "#/image/99", "The set has images 0 to"),
    ],
)
def test_what_is_missing_is_told_with_what_to_do(new_page, ask, changes, place, told):
    page = new_page()
    page.watched.allow("status of 404")
    about = {**ask("/api/about"), **changes}
    page.route("**/api/about", lambda route: route.fulfill(json=about))
    page.goto("/" + place)
    page.wait_for_selector(".state")
    assert told in page.locator(".state").inner_text()


def test_without_head_and_class_token_an_image_is_shown_all_the_same(new_page, ask):
    page = new_page()
    about = {**ask("/api/about"), "words": None, "head": False, "class_attention": False}
    nothing = {"words": None, "scores": None, "confidence": None, "class_word": None}
    image = {**ask("/api/image/0"), **nothing}
    page.route("**/api/about", lambda route: route.fulfill(json=about))
    page.route("**/api/image/0?*", lambda route: route.fulfill(json=image))
    page.goto("/#/image/0")
    page.get_by_text("There are no words here").wait_for()
    expect(page.get_by_role("radio", name="Words")).to_be_disabled()


def test_notes_stand_behind_a_button_that_is_marked_until_they_are_read(new_page, ask):
    page = new_page()
    about = {**ask("/api/about"), "notes": ["only `train` is read <b>"]}
    page.route("**/api/about", lambda route: route.fulfill(json=about))
    page.goto("/#/words")
    button = page.get_by_label("Notes: 1")
    expect(button).to_have_class(re.compile("unread"))
    expect(page.locator("#notes")).to_be_hidden()
    button.click()
    expect(page.locator("#notes")).to_have_text("only train is read <b>")
    expect(button).to_have_attribute("aria-expanded", "true")
    page.reload()
    expect(button).not_to_have_class(re.compile("unread"))

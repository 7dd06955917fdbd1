"""The views of all words and of one."""

import re
from urllib.parse import parse_qs, urlsplit

from playwright.sync_api import expect

from ibot.explore.browser.export import export


def numbers(page):
    return [int(text) for text in page.locator(".card strong").all_inner_texts()]


def test_words_stand_in_the_order_that_is_asked_for(page, ask):
    page.goto("/#/words")
    page.wait_for_selector(".card")
    assert numbers(page) == [one["word"] for one in ask("/api/words")["words"]]
    first = page.locator(".card img").first
    expect(first).not_to_have_class(re.compile("waiting|absent"))
    assert first.evaluate("image => image.naturalWidth") == 3 * 64
    page.get_by_label("By", exact=True).select_option("entropy")
    page.get_by_label("Largest first").click()
    page.get_by_label("Smallest first").wait_for()
    assert page.url.endswith("#/words?sort=entropy&desc=0")
    page.wait_for_selector(".card")
    expected = ask("/api/words?sort=entropy&desc=0")["words"]
    assert numbers(page) == [one["word"] for one in expected]
    page.get_by_label("Label", exact=True).select_option("b")
    expect(page).to_have_url(re.compile("label=b"))
    page.wait_for_selector(".card, .state")
    assert len(numbers(page)) == ask("/api/words?label=b")["total"]
    page.get_by_text("Images", exact=True).click()
    expect(page).to_have_url(re.compile("kind=class"))


def test_words_of_which_none_fulfils_the_filter_say_so(page):
    page.goto("/#/words?min_images=99999")
    page.get_by_text("No word fulfils this.").wait_for()


def test_more_words_come_while_one_scrolls_and_are_there_on_the_way_back(new_page, ask):
    page = new_page()
    one = ask("/api/words?limit=1")["words"][0]

    def many(route):
        offset = int(parse_qs(urlsplit(route.request.url).query)["offset"][0])
        words = [{**one, "life": [1, 2]} for _ in range(offset, min(offset + 48, 130))]
        route.fulfill(json={"total": 130, "unused": 0, "words": words})

    page.route("**/api/words?*", many)
    page.goto("/#/words")
    page.get_by_text("130 words").wait_for()
    seen = page.locator(".card").count()
    assert 48 <= seen < 130
    for count in (96, 130):
        page.evaluate("window.scrollTo(0, document.body.scrollHeight)")
        expect(page.locator(".card")).to_have_count(count)
    page.locator(".card").nth(120).click()
    page.wait_for_selector("h1:has-text('Word')")
    page.go_back()
    expect(page.locator(".card")).to_have_count(130)
    page.wait_for_function("window.scrollY > 1000")


def test_a_word_says_where_it_is_found_and_how_it_came_to_be(page, ask):
    page.goto("/#/words")
    page.locator(".card").first.click()
    page.wait_for_selector(".word-page")
    number = int(re.search(r"#/word/(\d+)", page.url)[1])
    word = ask(f"/api/word/{number}")
    assert page.locator("h1").inner_text() == f"Word {number}"
    told = page.locator(".told").inner_text()
    assert f"{word['uses']} patch" in told and f"{word['images']} image" in told
    neighbours = page.locator(".beside .tile").all_inner_texts()
    assert [int(text.split("\n")[-1].split()[0]) for text in neighbours] == [
        one["word"] for one in word["neighbours"][:8]
    ]
    places = page.locator(".view-word > section:last-child .tile")
    names = [place["name"] for place in word["occurrences"]]
    assert [t.split("\nrow ")[0] for t in places.evaluate_all("e => e.map(x => x.title)")] == names
    assert page.locator(".life li").count() == 2
    page.locator(".life a").first.click()
    expect(page).to_have_url(re.compile("c=0"))
    expect(page.locator("#checkpoint")).to_have_value("0")
    page.go_back()
    expect(page).not_to_have_url(re.compile("c=0"))
    page.wait_for_selector(".word-page")
    places.first.click()
    first = word["occurrences"][0]
    expect(page).to_have_url(
        re.compile(re.escape(f"#/image/{first['image']}?patch={first['patch']}") + "$")
    )


def test_a_word_that_does_not_exist_is_refused_in_words(page):
    page.watched.allow("404")
    page.goto("/#/word/99999")
    page.locator(".state.failed h2").wait_for()
    page.keyboard.press("1")
    page.wait_for_selector(".card")


def test_an_exported_page_needs_no_server(page, explorer, tmp_path):
    file = tmp_path / "words.html"
    shown = export(explorer.session, file, words=4)
    page.goto(f"{file.as_uri()}#/words?sort=images&desc=0")
    expect(page.locator(".card")).to_have_count(4)
    labels = page.locator(".card").evaluate_all("all => all.map(card => card.ariaLabel)")
    counts = [int(re.search(r"in (\d+) image", label)[1]) for label in labels]
    assert counts == sorted(counts)
    expect(page.locator(".card img").first).not_to_have_class(re.compile("waiting|absent"))
    page.locator(".card").first.click()
    page.wait_for_selector(".word-page")
    shown_then = page.locator(".life img")
    assert shown_then.count() == 2 and page.locator(".life a").count() == 0
    assert len(set(shown_then.evaluate_all("all => all.map(image => image.src)"))) == 2
    # Links lead only to what is there.
    for link in page.locator("#main a[href*='/image/'], #main a[href*='/word/']").all():
        assert page.evaluate(
            "p => ibot.api.has(p)", "/api" + link.get_attribute("href")[1:].split("?")[0]
        )
    page.keyboard.press("2")
    expect(page.locator(".gallery .tile")).to_have_count(len(shown.images))
    page.locator(".gallery .tile").first.click()
    page.locator(".stage").click()
    page.wait_for_selector(".panel-head")
    page.keyboard.press("n")
    expect(page.locator("h1 bdi")).to_have_text(shown.images[1])
    page.keyboard.press("3")
    page.locator(".stage").first.hover()
    expect(page.locator(".readout")).to_contain_text("cosine")
    page.keyboard.press("1")
    page.get_by_text("Images", exact=True).click()
    expect(page.locator(".card")).to_have_count(4)
    page.locator(".card").first.click()
    expect(page.locator("h1").last).to_contain_text("Class word")
    expect(page.locator(".tiles .absent")).to_have_count(0)
    assert not [url for url in page.watched.requests if "/api/" in url]

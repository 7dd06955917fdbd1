"""The view of one image, and images of one's own."""

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import expect


def wait_until(page, holds, seconds=10):
    for _ in range(20 * seconds):
        if holds():
            return
        page.wait_for_timeout(50)
    raise AssertionError(f"not so within {seconds} s")


def click_patch(page, row, col, grid=(4, 4)):
    box = page.locator(".stage").bounding_box()
    at = {"x": (col + 0.5) * box["width"] / grid[1], "y": (row + 0.5) * box["height"] / grid[0]}
    page.locator(".stage").click(position=at)


def layer(page):
    """The pixels of what lies over the picture: [h, w, 4]."""
    pixels = page.evaluate(
        """() => {
            const {width, height} = document.querySelector(".stage canvas");
            const context = document.createElement("canvas")
                .getContext("2d", {willReadFrequently: true});
            Object.assign(context.canvas, {width, height});
            context.drawImage(document.querySelector(".stage canvas"), 0, 0);
            const data = context.getImageData(0, 0, width, height).data;
            return [height, width, [...data]];
        }"""
    )
    return np.array(pixels[2]).reshape(pixels[0], pixels[1], 4)


def png(side=40):
    stream = io.BytesIO()
    Image.linear_gradient("L").resize((side, side)).convert("RGB").save(stream, "PNG")
    return stream.getvalue()


def test_a_click_on_a_patch_shows_its_word_and_where_else_it_occurs(page, ask):
    page.goto("/#/image/0")
    page.wait_for_selector(".stage")
    click_patch(page, 1, 2)
    page.wait_for_selector(".panel-head")
    found = ask("/api/patch?image=0&patch=6")
    assert page.locator(".panel-head h2").inner_text().strip() == f"Word {found['word']}"
    assert "Row 2 of 4, column 3 of 4" in page.locator(".panel-head").inner_text()
    tiles = page.locator(".panel section").first.locator(".tile")
    assert tiles.count() == len(found["elsewhere"]) > 0
    # The outline of all patches of this word: one side where its neighbour has another.
    words = np.array(ask("/api/image/0")["words"]).reshape(4, 4)
    inside = np.pad(words == found["word"], 1)
    sides = sum(np.count_nonzero(np.diff(inside.astype(int), axis=axis)) for axis in (0, 1))
    outline = page.locator(".marks .same").get_attribute("d")
    assert len(re.findall("M", outline)) == sides
    assert page.url.endswith("#/image/0?patch=6")
    page.reload()
    page.wait_for_selector(".panel-head")
    assert page.locator(".marks .picked").count() == 1
    tiles.first.click()
    first = found["elsewhere"][0]
    expect(page).to_have_url(
        re.compile(re.escape(f"#/image/{first['image']}?patch={first['patch']}") + "$")
    )
    page.go_back()
    expect(page).to_have_url(re.compile(re.escape("#/image/0?patch=6") + "$"))


def test_the_way_back_lets_go_of_the_patch(page):
    page.goto("/#/image")
    page.locator(".gallery .tile").nth(2).click()
    page.wait_for_selector(".stage")
    for leave in (page.go_back, lambda: page.keyboard.press("Escape")):
        click_patch(page, 1, 2)
        click_patch(page, 3, 3)
        expect(page).to_have_url(re.compile("patch=15$"))
        page.wait_for_selector(".panel-head")
        leave()
        page.wait_for_selector(".chips")
        assert page.url.endswith("#/image/2")
        assert page.locator(".marks .picked").count() == 0
    page.go_back()  # neither left a step of its own
    page.wait_for_selector(".gallery .tile")


def test_layers_show_what_the_server_measured(page, ask):
    page.goto("/#/image/1")
    page.wait_for_selector(".stage .edges[d^=M]")  # map of words
    words = np.array(ask("/api/image/1")["words"]).reshape(4, 4)
    shown = layer(page)
    assert shown.shape == (4, 4, 4)
    same = (shown[:, :, None, None, :3] == shown[None, None, :, :, :3]).all(-1)
    assert (same == (words[:, :, None, None] == words[None, None])).all()
    page.keyboard.press("a")
    page.wait_for_selector(".head")
    page.keyboard.press("h")
    page.keyboard.press("h")
    expect(page.locator(".head[aria-pressed=true]")).to_have_text("2")
    data = ask("/api/image/1/attention?c=1")
    maps = np.frombuffer(base64.b64decode(data["maps"]), np.uint8).reshape(-1, 16)[1]
    colours = page.evaluate(
        "values => values.map(v => ibot.colours.cividis(v / 255))", maps.tolist()
    )
    assert (layer(page).reshape(16, 4)[:, :3] == np.array(colours)).all()
    page.get_by_text("60 % of the mass").click()
    mass = np.frombuffer(base64.b64decode(data["mass"][1]), np.uint8).astype(bool)
    expect(page).to_have_url(re.compile("mask=1"))
    assert ((layer(page).reshape(16, 4)[:, 3] == 0) == mass).all()
    page.keyboard.press("f")
    page.get_by_label("Components of").wait_for()
    rgb = base64.b64decode(ask("/api/image/1/features?c=1&over=image")["rgb"])
    expected = np.frombuffer(rgb, np.uint8).reshape(16, 3)
    wait_until(page, lambda: (layer(page).reshape(16, 4)[:, :3] == expected).all())
    page.reload()
    page.get_by_label("Components of").wait_for()  # the address holds the layer


def test_everything_is_reached_with_the_keyboard(new_page):
    page = new_page()
    page.goto("/#/words")
    page.wait_for_selector(".card")
    page.keyboard.press("Tab")
    expect(page.locator(".skip")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#main")).to_be_focused()
    page.keyboard.press("2")
    page.locator(".gallery .tile").first.focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator(".gallery .tile").nth(1)).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator(".stage")).to_be_focused()
    page.keyboard.press("ArrowDown")  # the first key goes to the middle
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile("patch=11$"))
    page.wait_for_selector(".panel-head")
    page.keyboard.press("Escape")
    page.wait_for_selector(".chips")
    assert page.url.endswith("#/image/1")
    page.keyboard.press("n")
    expect(page).to_have_url(re.compile(re.escape("#/image/2") + "$"))
    page.keyboard.press("?")
    keys = page.locator("#help")
    expect(keys).to_be_visible()
    assert "next head of attention" in keys.inner_text()
    page.keyboard.press("Escape")
    expect(keys).not_to_be_visible()


def test_images_are_found_by_name_and_names_are_text(page, ask):
    names = [image["name"] for image in ask("/api/images?limit=100")["images"]]
    page.goto("/#/image")
    page.wait_for_selector(".gallery .tile")
    assert page.locator(".gallery .tile").evaluate_all("all => all.map(e => e.title)") == names
    assert page.locator("[onerror], main b").count() == 0
    field = page.get_by_label("Find by name")
    field.fill("onerror")
    option = page.locator(".found [role=option]")
    option.wait_for()
    name = option.locator("bdi").text_content()
    assert name.endswith("<img src=x onerror=alert(1)>.png")
    field.press("ArrowDown")
    field.press("Enter")
    page.wait_for_selector(".stage")
    assert page.locator("h1 bdi").text_content() == name
    assert page.locator("[onerror]").count() == 0


def test_an_own_image_is_dropped_chosen_and_used_in_all_views(page, drop):
    page.goto("/#/words")
    page.wait_for_selector(".card")
    drop(page, "my <b>own</b> 🐟.png", png())
    expect(page).to_have_url(re.compile("#/image/drop-"))
    page.wait_for_selector(".stage")
    assert page.locator("h1 bdi").text_content() == "my <b>own</b> 🐟.png"
    click_patch(page, 0, 0)
    page.wait_for_selector(".panel .tile")
    page.get_by_role("link", name="Compare", exact=True).last.click()
    page.wait_for_selector(".pair")
    page.locator("#chooser").set_input_files(
        {"name": "other.png", "mimeType": "image/png", "buffer": png(60)}
    )
    expect(page).to_have_url(re.compile(r"a=drop-\d+&b=drop-\d+"))
    page.wait_for_selector(".side-name:has-text('other.png')")
    page.locator(".stage").first.hover()
    expect(page.locator(".readout")).to_contain_text("cosine")


def test_what_is_no_image_is_refused_in_words(page, drop):
    page.watched.allow("status of 4")
    page.goto("/#/image/0")
    page.wait_for_selector(".stage")
    drop(page, "notes.txt", b"these are words")
    page.get_by_text("notes.txt could not be opened").wait_for()
    assert page.url.endswith("#/image/0")
    page.get_by_label("Dismiss").click()
    assert page.locator(".notice").count() == 0
    drop(page, "half.png", png(200)[:-60])
    page.get_by_text("half.png could not be opened").wait_for()
    expect(page.locator(".notice")).to_contain_text("ends before the image does")
    expect(page.locator(".notice")).not_to_contain_text("JPEG")


@pytest.mark.parametrize("place", ["#/image/99999", "#/image/%", "#/compare?a=77777"])
def test_images_that_do_not_exist_are_refused_in_words(page, place):
    page.watched.allow("status of 4")
    page.goto("/" + place)
    page.locator(".state.failed h2").wait_for()


def test_keys_lead_past_an_image_that_cannot_be_shown(page, ask):
    page.watched.allow("status of 4")
    images = ask("/api/images?limit=100")["images"]
    broken = next(one["id"] for one in images if one["name"].endswith("broken.png"))
    page.goto(f"/#/image/{broken - 1}")
    page.wait_for_selector(".stage")
    page.keyboard.press("n")
    page.locator(".state.failed").wait_for()
    page.keyboard.press("a")  # means nothing here
    page.keyboard.press("n")
    expect(page).to_have_url(re.compile(f"#/image/{broken + 1}$"))
    page.wait_for_selector(".stage")
    page.get_by_label("Image before").click()
    page.locator(".state.failed").wait_for()
    page.get_by_label("Next image").click()
    page.wait_for_selector(".stage")
    page.go_back()
    page.get_by_text("← All images").click()
    unread = len(images) - ask("/api/map/about")["count"]
    page.get_by_text(f"{len(images)} images, {unread} cannot be read").wait_for()
    page.goto("/#/map")
    expect(page.locator(".map-status")).to_contain_text(f"{unread} of {len(images)} cannot be read")

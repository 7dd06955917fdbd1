"""The map: drawn by WebGL and without, moved, asked, coloured, by two methods."""

import json
from urllib.parse import unquote

import numpy as np
import pytest
from playwright.sync_api import expect


@pytest.fixture
def map_page(page):
    page.goto("/#/map")
    page.wait_for_selector(".map-plot[data-method]")
    return page


@pytest.fixture
def by_webgl(page):
    # Said by software drivers when a picture of the page is taken.
    page.watched.allow("GPU stall due to ReadPixels")
    page.goto("/#/map?renderer=webgl")  # in software, which pages pass over by themselves
    page.wait_for_selector('.map-plot[data-method][data-renderer="WebGL"]')
    return page


def middle(page):
    box = page.locator(".map-plot").bounding_box()
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def around_everything(page):
    """Draw around all points with the button of the mouse held down."""
    box = page.locator(".map-plot").bounding_box()
    left, top = box["x"] + 3, box["y"] + 3
    right, bottom = box["x"] + box["width"] - 60, box["y"] + box["height"] - 3
    page.mouse.move(left, top)
    page.mouse.down()
    for place in ((right, top), (right, bottom), (left, bottom)):
        page.mouse.move(*place, steps=4)
    page.mouse.up()


def number_chosen(page):
    return int(page.locator(".map-plot").get_attribute("data-selected") or 0)


def camera(page):
    """Centre and magnification as the address has them."""
    return [float(v) for v in unquote(page.url).split("at=")[1].split("&")[0].split(",")]


def until_address_has(page, text):
    page.wait_for_function("text => decodeURIComponent(location.hash).includes(text)", arg=text)


def test_the_map_opens_by_webgl_with_small_pictures_of_all_images(by_webgl, ask):
    count = ask("/api/map/about")["count"]
    expect(by_webgl.locator('.map-plot[data-renderer="WebGL"]')).to_be_visible()
    expect(by_webgl.locator(f'.map-plot[data-pictures="{count}"]')).to_be_visible()
    status = by_webgl.locator(".map-status").text_content()
    assert status.startswith(f"{count} images") and "principal components" in status


def test_dragging_moves_and_the_wheel_zooms_around_the_pointer(map_page):
    x, y = middle(map_page)
    map_page.mouse.move(x, y)
    map_page.mouse.down()
    map_page.mouse.move(x + 60, y + 40, steps=5)
    map_page.mouse.up()
    until_address_has(map_page, "at=")
    before = camera(map_page)
    map_page.mouse.move(x, y)
    map_page.mouse.wheel(0, -600)
    map_page.wait_for_function("before => location.href !== before", arg=map_page.url)
    after = camera(map_page)
    assert after[:2] == pytest.approx(before[:2], abs=2e-3), "what is under the pointer stays"
    assert after[2] > 2 * before[2]
    map_page.reload()
    map_page.wait_for_selector(".map-plot[data-method]")
    map_page.wait_for_timeout(500)
    assert camera(map_page) == pytest.approx(after, rel=0.01)
    map_page.keyboard.press("0")
    map_page.wait_for_function("() => !location.hash.includes('at=')")


def test_a_lasso_chooses_and_says_what_the_chosen_have_in_common(map_page, ask):
    count = ask("/api/map/about")["count"]
    map_page.keyboard.press("l")
    around_everything(map_page)
    panel = map_page.locator(".selection")
    expect(panel.locator("h2")).to_have_text(f"{count} images")
    assert number_chosen(map_page) == panel.locator(".strip a").count() == count
    assert panel.locator(".shares").count() == 2, "labels and class words"
    expect(panel.get_by_role("link", name="Compare the first two")).to_be_visible()
    map_page.keyboard.press("Escape")
    expect(panel.locator("h2")).to_have_text("Selection")
    map_page.keyboard.press("b")
    around_everything(map_page)
    assert number_chosen(map_page) == 0, "a box whose ends meet again at one side is flat"


def test_colours_switch_and_the_legend_leaves_out(map_page, ask):
    about = ask("/api/map/about")
    rows = map_page.locator(".legend-row")
    assert rows.count() == len(set(about["labels"]))
    rows.first.click()
    expect(rows.first).to_have_attribute("aria-pressed", "true")
    map_page.keyboard.press("l")
    around_everything(map_page)
    assert number_chosen(map_page) == max(map(about["labels"].count, set(about["labels"])))
    colours = map_page.get_by_label("Colour by")
    colours.select_option("outlier")
    until_address_has(map_page, "colour=outlier")
    expect(rows.first).to_contain_text("most outlying 1 %")
    colours.select_option("word")
    expect(rows.first).to_contain_text("word ")
    colours.select_option("none")
    expect(map_page.locator(".legend")).to_be_hidden()


def test_a_legend_of_many_words_begins_with_those_that_several_images_have(page, ask):
    about = ask("/api/map/about")
    many = 30
    points = np.random.default_rng(1).random((many, 2)).astype("<f4").tobytes()
    words = [7, 7, *range(100, 98 + many)]
    told = {**about, "count": many, "ids": [0] * many, "labels": None, "class_words": words}
    told["outlier"] = [0.0] * many
    page.route("**/api/map/about*", lambda route: route.fulfill(json=told))
    page.route("**/api/map?*", lambda route: route.fulfill(body=points))
    page.route("**/api/thumbs.jpg*", lambda route: route.abort())
    page.watched.allow("ERR_FAILED")
    page.goto("/#/map?colour=word")
    rows = page.locator(".legend-row")
    expect(rows).to_have_count(1)
    expect(rows).to_contain_text("word 7")
    page.get_by_role("button", name=f"{many - 2} rarer words").click()
    expect(rows).to_have_count(many - 1)
    page.get_by_label("Find in the legend").fill("101")
    expect(rows).to_have_count(1)


def test_pictures_at_the_rim_are_whole(map_page, ask):
    for width in (1280, 360):
        map_page.set_viewport_size({"width": width, "height": 800})
        map_page.goto("/#/nowhere")
        map_page.goto("/#/map")
        count = ask("/api/map/about")["count"]
        expect(map_page.locator(f'.map-plot[data-pictures="{count}"]')).to_be_visible()
        rim = map_page.evaluate("""() => {
            const { width, height } = document.querySelector(".map-over");
            const often = { willReadFrequently: true };
            const pen = new OffscreenCanvas(width, height).getContext("2d", often);
            pen.drawImage(document.querySelector(".map-over"), 0, 0);
            const sides = [[0, 0, width, 1], [0, height - 1, width, 1],
                [0, 0, 1, height], [width - 1, 0, 1, height]];
            return sides.map((side) => Math.max(...pen.getImageData(...side).data));
        }""")
        assert rim == [0, 0, 0, 0]


def test_the_keyboard_walks_from_image_to_image(map_page):
    plot = map_page.locator(".map-plot")
    plot.focus()
    map_page.keyboard.press("Shift+ArrowRight")
    card = map_page.locator(".map-card")
    expect(card).to_be_visible()
    map_page.keyboard.press("Space")
    assert number_chosen(map_page) == 1
    items = map_page.locator(".near .near-list a")
    expect(items.first).to_be_visible()
    items.first.focus()
    map_page.keyboard.press("ArrowDown")
    expect(items.nth(1)).to_be_focused()
    second = items.nth(1).get_attribute("data-point")
    map_page.keyboard.press("ArrowRight")
    expect(items.first).to_have_attribute("data-point", second)
    expect(items.first).to_be_focused()
    map_page.keyboard.press("ArrowLeft")
    expect(items.first).not_to_have_attribute("data-point", second)
    plot.focus()
    map_page.keyboard.press("Shift+ArrowLeft")
    map_page.keyboard.press("Enter")
    map_page.wait_for_selector(".stage")
    map_page.go_back()
    map_page.wait_for_selector(".map-plot[data-method]")


def test_names_of_files_are_shown_and_not_run(map_page, ask):
    images = ask("/api/images")["images"]
    shown = map_page.locator(".near-list .name")
    expect(shown.first).to_be_visible()
    names = {image["name"] for image in images}
    assert shown.count() > 8
    assert {shown.nth(at).text_content() for at in range(shown.count())} <= names
    assert map_page.locator(".view-map img[src='x']").count() == 0


def test_without_webgl_the_map_is_drawn_all_the_same(browser, chromium, address):
    arguments = ["--no-sandbox", "--disable-dev-shm-usage", "--disable-3d-apis"]
    plain = browser.browser_type.launch(executable_path=chromium, args=arguments)
    try:
        page = plain.new_page(base_url=address)
        page.goto("/#/map")
        expect(page.locator('.map-plot[data-renderer="Canvas"]')).to_be_visible()
        page.keyboard.press("l")
        around_everything(page)
        expect(page.locator(".selection .strip a").first).to_be_visible()
        assert "drawn by Canvas" in page.locator(".map-status").text_content()
        assert painted(page)
    finally:
        plain.close()


def test_webgl_in_software_is_passed_over_as_canvas_is_quicker(page):
    page.goto("/#/map")
    expect(page.locator('.map-plot[data-renderer="Canvas"]')).to_be_visible()
    expect(page.locator(".map-status")).to_contain_text("drawn by Canvas")


def test_a_lost_context_is_no_loss(by_webgl):
    by_webgl.watched.allow("CONTEXT_LOST_WEBGL")
    assert painted(by_webgl)
    by_webgl.evaluate(
        "document.querySelector('.map-points').getContext('webgl')"
        ".getExtension('WEBGL_lose_context').loseContext()"
    )
    expect(by_webgl.locator('.map-plot[data-renderer="Canvas"]')).to_be_visible()
    by_webgl.wait_for_timeout(100)
    assert painted(by_webgl)


def painted(page):
    """Whether the points' own canvas shows more than its ground."""
    return page.evaluate("""() => {
        const points = document.querySelector(".map-points"), { width, height } = points;
        const pen = new OffscreenCanvas(width, height).getContext("2d");
        pen.drawImage(points, 0, 0);
        const { buffer } = pen.getImageData(0, 0, width, height).data;
        return new Set(new Uint32Array(buffer)).size > 5;
    }""")


def test_both_ways_to_draw_give_the_same_picture(by_webgl):
    """Points in the middle of pixels: elsewhere WebGL divides them among pixels, alone."""
    worst, mean = by_webgl.evaluate("""() => {
        const side = 200, n = 150, places = new Float32Array(2 * n);
        const bytes = (length, most) => Uint8Array.from({ length }, () => Math.random() * most);
        for (let i = 0; i < 2 * n; i++) places[i] = (Math.floor(Math.random() * side) + 0.5) / side;
        const scene = {
            order: Uint32Array.from({ length: n }, (_, i) => n - 1 - i), to: places, from: places,
            colour: bytes(4 * n, 256), size: bytes(n, 40), shape: bytes(n, 3), ring: bytes(n, 2),
            paper: [250, 240, 230], ink: [10, 20, 30],
        };
        const camera = { x: 0.5, y: 0.5, scale: side, width: side, height: side, ratio: 1 };
        const [a, b] = ["webgl", "canvas"].map((kind) => {
            const canvas = document.createElement("canvas");
            canvas.width = canvas.height = side;
            const renderer = ibot.points[kind](canvas, () => {}, true);
            renderer.load(scene);
            renderer.draw(camera, 1);
            const copy = document.createElement("canvas").getContext("2d");
            [copy.canvas.width, copy.canvas.height] = [side, side];
            copy.drawImage(canvas, 0, 0);
            return copy.getImageData(0, 0, side, side).data;
        });
        const apart = Array.from(a, (value, at) => Math.abs(value - b[at]));
        const sum = apart.reduce((x, y) => x + y);
        return [apart.reduce((x, y) => Math.max(x, y)), sum / apart.length];
    }""")
    # Of 255: a dozen points may lie on one another, and each is rounded to bytes before the next.
    assert worst <= 6 and mean < 0.3, (worst, mean)


def test_picking_equals_loops_over_all_points(map_page):
    wrong = map_page.evaluate("""() => {
        const wrong = [];
        for (const n of [1, 2, 30, 700]) {
            const places = Float32Array.from({ length: 2 * n }, Math.random);
            const kept = Array.from({ length: n }, () => Math.random() < 0.8);
            const keep = (i) => kept[i];
            const grid = ibot.pointGrid(places), all = [...Array(n).keys()].filter(keep);
            const at = (i) => [places[2 * i], places[2 * i + 1]];
            for (let turn = 0; turn < 40; turn++) {
                const [x, y] = [3 * Math.random() - 1, 3 * Math.random() - 1];
                const away = (i) => Math.hypot(at(i)[0] - x, at(i)[1] - y);
                const near = [...all].sort((i, j) => away(i) - away(j));
                const limit = turn % 2 ? Infinity : 0.4;
                const expected = near.filter((i) => away(i) <= limit).slice(0, 5);
                const nearest = grid.nearest(x, y, 5, keep, limit);
                if (`${nearest}` !== `${expected}`) wrong.push(["nearest", n]);
                const [u, v] = [Math.random(), Math.random()];
                const box = [Math.min(x, u), Math.min(y, v), Math.max(x, u), Math.max(y, v)];
                const inside = all.filter((i) => at(i)[0] >= box[0] && at(i)[0] <= box[2]
                    && at(i)[1] >= box[1] && at(i)[1] <= box[3]);
                const found = grid.within(...box, keep).sort((i, j) => i - j);
                if (`${found}` !== `${inside}`) wrong.push(["within", n]);
                const corners = [[x, y], [u, y], [u, v], [x, v]];
                const lasso = grid.inside(corners, keep).sort((i, j) => i - j);
                if (`${lasso}` !== `${inside}`) wrong.push(["lasso", n]);
            }
        }
        return wrong;
    }""")
    assert wrong == []


def test_the_neighbour_embedding_says_how_far_it_is_then_who_made_it(map_page, ask):
    left = [3]
    count = ask("/api/map/about")["count"]
    points = np.random.default_rng(0).random((count, 2)).astype("<f4").tobytes()
    made = {"X-Count": str(count), "X-Method": "openTSNE 1.0.2, perplexity 30, cosine, seed 0"}

    def answer(route):
        left[0] -= 1
        if left[0] < 0:
            return route.fulfill(body=points, headers=made)
        told = {"state": "computing", "done": 300, "total": 750, "why": "placing neighbours"}
        return route.fulfill(status=202, body=json.dumps(told), content_type="application/json")

    map_page.route("**/api/map?*method=neighbours*", answer)
    map_page.get_by_text("neighbour embedding", exact=True).click()
    progress = map_page.locator(".map-progress")
    expect(progress).to_contain_text("placing neighbours")
    assert progress.locator("progress").get_attribute("value") == "300"
    expect(map_page.locator('.map-plot[data-method="neighbours"]')).to_be_visible()
    expect(progress).to_be_hidden()
    expect(map_page.locator(".map-status")).to_contain_text("openTSNE")
    expect(map_page.locator(".map-status")).to_contain_text("seed 0")
    until_address_has(map_page, "method=neighbours")
    map_page.go_back()
    expect(map_page.locator('.map-plot[data-method="pca"]')).to_be_visible()


def test_a_neighbour_embedding_that_fails_leaves_the_map_as_it_was(map_page):
    told = {"state": "failed", "done": 0, "total": 0, "why": "no memory was left", "fix": ""}
    map_page.route(
        "**/api/map?*method=neighbours*",
        lambda route: route.fulfill(status=202, json=told),
    )
    map_page.get_by_text("neighbour embedding", exact=True).click()
    expect(map_page.get_by_role("alert").first).to_contain_text("No memory was left")
    expect(map_page.locator("input[value=pca]")).to_be_checked()
    assert map_page.locator(".map-plot").get_attribute("data-method") == "pca"


def test_an_own_image_stands_where_the_same_image_of_the_set_stands(map_page, drop, ask, images):
    path = images / "b" / "3.png"
    number = next(i["id"] for i in ask("/api/images")["images"] if i["name"] == "b/3.png")
    drop(map_page, "mine <b>.png", path.read_bytes())
    panel = map_page.locator(".own")
    expect(panel.locator(".name")).to_have_text("mine <b>.png")
    expect(panel).to_contain_text("★ on the map")
    own = panel.locator("a").get_attribute("href").split("image/")[1].split("?")[0]
    places = [ask(f"/api/map/place?image={name}")["place"] for name in (own, number)]
    assert places[0] == pytest.approx(places[1], abs=1e-5)
    assert map_page.locator(".map-plot").get_attribute("data-own") == "1"
    panel.get_by_role("button", name="what is beside it").click()
    expect(map_page.locator(".near .near-list .name").first).to_have_text("b/3.png")

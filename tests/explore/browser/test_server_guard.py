"""Who may ask, and what of a disk can be seen."""

import io
import itertools
import socket

import numpy as np
import pytest
from explored import NAMES, client_of, drop, explorer_of, get_raw, number_of
from PIL import Image

from ibot.explore.browser import shelf
from ibot.explore.browser.guard import MAX_BYTES
from ibot.explore.browser.server import HOST, _bound
from ibot.words import encodable

HOSTS = {
    "127.0.0.1": 200,
    "127.0.0.1:8420": 200,
    "localhost:1": 200,
    "LOCALHOST": 200,
    "[::1]:80": 200,
    "evil.example": 403,
    "127.0.0.1.evil.example": 403,
    "evil.example:8420": 403,
    "localhost:8420@evil.example": 403,
    "127.0.0.1:8420 evil": 403,
    "0.0.0.0": 403,
    "": 403,
}


@pytest.mark.parametrize("host", HOSTS)
def test_only_names_of_this_machine_are_answered(client, host):
    answer = client.get("/api/about", headers={"host": host})
    assert answer.status_code == HOSTS[host]
    assert ("error" in answer.json()) == (HOSTS[host] == 403)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 415),
        ({"origin": "http://127.0.0.1:8420"}, 415),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "https://127.0.0.1:8420"}, 403),
        ({"origin": "http://127.0.0.1:8888"}, 403),
        ({"origin": "null"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-site"}, 403),
        ({"sec-fetch-site": "same-origin"}, 415),
    ],
)
def test_files_are_taken_from_the_own_page_alone(client, headers, status):
    assert drop(client, b"no image", **headers).status_code == status


def test_other_pages_cannot_embed_what_is_shown(client):
    assert client.get("/api/image/0/thumb.jpg").status_code == 200
    crossed = client.get("/api/image/0/thumb.jpg", headers={"sec-fetch-site": "cross-site"})
    assert crossed.status_code == 403
    assert client.get("/", headers={"sec-fetch-site": "cross-site"}).status_code == 200  # a link


def test_every_answer_forbids_what_the_page_does_not_need(client):
    for path in ("/", "/api/about", "/api/nothing", "/api/image/0/thumb.jpg", "/elsewhere"):
        headers = client.get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy and "'unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert "access-control-allow-origin" not in headers
    for method in ("PUT", "DELETE", "OPTIONS", "PATCH", "TRACE"):
        assert client.request(method, "/api/about").status_code == 405


def test_the_server_listens_on_this_machine_alone():
    with _bound(0) as bound:
        assert bound.getsockname()[0] == HOST == "127.0.0.1" and bound.family == socket.AF_INET
        assert bound.proto == socket.IPPROTO_TCP  # else asyncio lets answers wait for each other


UP = ("..", "%2e%2e", "..%2f", "%2e%2e%2f", "..%5c", "..;", "%252e%252e", "....//", "%c0%ae%c0%ae")
PLACES = ("/etc/passwd", "/outside/secret.png", "%2fetc%2fpasswd", "\\etc\\passwd")
NUMBERS = (
    "-1", "1e3", "0x1", "+1", "1.0", "01.", "٣", "²", "99999999999999999999", "1_0", "NaN",
    "drop-", "drop-0", "drop--1", "drop-1/../..", "drop-9999999", "0%00", "%00", "0;", "0\n", " 0",
    "a/0.png", "way_out.png", "b%2f0.png",
)  # fmt: skip
TRIES = [
    *(
        f"{start}{up}/{up}/{up}{place}"
        for start, up, place in itertools.product(("/page/", "/"), UP, PLACES)
    ),
    *(f"/api/image/{number}/pixels.jpg?view=0" for number in NUMBERS),
    *(f"/api/window.jpg?patch=0&image={number}" for number in NUMBERS),
    *(f"/api/thumbs.jpg?ids={number}" for number in NUMBERS),
    *(f"/api/image/{up}{place}" for up, place in itertools.product(UP, PLACES)),
    "/page/",
    "/page",
    "/page/index.html/../../server.py",
    "/page//etc/passwd",
    "//etc/passwd",
    "/page/../server.py",
    "/look.css/../html.py",
]


def test_no_path_but_those_of_images_and_page_is_read(explorer, images):
    secret = (images.parent / "outside" / "secret.png").read_bytes()
    assert len(set(TRIES)) > 100
    for path in TRIES:
        status, content = get_raw(explorer.app, path)
        assert status in (400, 404, 405), path
        assert b"root:" not in content and secret not in content and b"import" not in content
    assert get_raw(explorer.app, "/api/image/0/pixels.jpg?view=0")[0] == 200


def test_a_link_that_leads_out_is_not_shown_unless_it_is_asked_for(client, run, images):
    way_out, within = (number_of(client, f"a/{name}.png") for name in ("way_out", "within"))
    for path in ("pixels.jpg?view=0", "pixels.jpg", "thumb.jpg"):
        shown = client.get(f"/api/image/{way_out}/{path}")
        assert _is_gray(shown.content), path
        assert not _is_gray(client.get(f"/api/image/{within}/{path}").content)
    assert _is_gray(client.get(f"/api/window.jpg?image={way_out}&patch=5").content)
    assert _is_gray(client.get(f"/api/thumbs.jpg?ids={way_out}").content)
    refused = client.get(f"/api/image/{way_out}")
    assert refused.status_code == 403 and "leads out" in refused.json()["why"]
    assert client.get(f"/api/image/{way_out}/attention").status_code == 403
    other = client_of(explorer_of(run, images, links=True))
    assert not _is_gray(other.get(f"/api/image/{way_out}/thumb.jpg").content)


def test_a_link_to_a_folder_is_followed_to_no_image_outside(run, tmp_path, images):
    data = tmp_path / "data"
    for name in ("0", "1"):
        (data / name).mkdir(parents=True)
        (data / name / "x.png").write_bytes((images / "b" / f"{name}.png").read_bytes())
    (data / "2").symlink_to(images.parent / "outside")
    client = client_of(explorer_of(run, data, folder=tmp_path / "index"))
    assert _is_gray(client.get(f"/api/image/{number_of(client, 'secret.png')}/thumb.jpg").content)
    assert not _is_gray(client.get(f"/api/image/{number_of(client, '0/x.png')}/thumb.jpg").content)


def _is_gray(content):
    pixels = np.asarray(Image.open(io.BytesIO(content))).astype(int)
    return np.ptp(pixels, axis=2).max() < 12 and abs(np.median(pixels) - 128) < 4


def test_names_arrive_as_text(client):
    listed = client.get("/api/images?limit=500")
    assert listed.headers["content-type"] == "application/json"
    names = {image["name"] for image in listed.json()["images"]}
    assert {f"a/{encodable(name)}" for name in NAMES} <= names
    found = client.get("/api/search", params={"q": "ONERROR"}).json()["images"]
    assert [image["name"] for image in found] == ["a/<img src=x onerror=alert(1)>.png"]


def test_a_dropped_file_that_is_too_large_is_refused_with_the_reason(client, monkeypatch):
    huge = io.BytesIO()
    Image.new("1", (12_000, 12_000)).save(huge, "PNG")
    answer = drop(client, huge.getvalue())
    assert answer.status_code == 415 and "64 million" in answer.json()["why"]

    def parts():
        yield b"\xff\xd8\xff"
        for _ in range(100):
            yield bytes(2**20)

    for content in (parts(), bytes(MAX_BYTES + 1)):
        answer = drop(client, content)
        assert answer.status_code == 413 and "64 MiB" in answer.json()["why"]
    assert drop(client, b"").status_code == 400


def test_the_oldest_dropped_images_go_when_there_are_many(explorer, images, monkeypatch):
    content = (images / "b" / "0.png").read_bytes()
    monkeypatch.setattr(shelf, "MAX_DROPPED", 2 * len(content))
    own = shelf.Shelf(None)
    first, *others = [own.drop(f"{i}", content) for i in range(3)]
    assert [own.name(image) for image in others] == ["1", "2"]
    with pytest.raises(Exception, match=f"'{first}' is not here"):
        own.check(first)

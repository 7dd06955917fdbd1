"""Where an image lies on the map of principal components."""

import numpy as np
import pytest
from explored import until_there


@pytest.mark.parametrize("c", [0, 1])
def test_an_image_of_the_set_lies_where_the_map_has_it(client, c):
    answer = until_there(client, f"/api/map?method=pca&c={c}")
    points = np.frombuffer(answer.content, "<f4").reshape(-1, 2)
    ids = until_there(client, f"/api/map/about?c={c}").json()["ids"]
    numbers = range(len(points)) if isinstance(ids, str) else ids
    for point, number in zip(points[:4], numbers, strict=False):
        place = client.get(f"/api/map/place?image={number}&c={c}").json()["place"]
        assert place == pytest.approx(point.tolist(), abs=2e-3)  # tokens of the index are rounded


def test_the_place_of_no_image_is_refused(client):
    assert client.get("/api/map/place?image=999").status_code in (400, 404)
    assert client.get("/api/map/place").status_code == 400

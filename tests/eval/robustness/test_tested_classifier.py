"""The classifier that is tested, and what the robustness protocols share."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ibot.data.sets.subsets import LabelledSubset
from ibot.eval.features import score as passes
from ibot.eval.features.tokens import CLASS_TOKEN
from ibot.eval.features.views import View
from ibot.eval.probes.logistic_fit import fit_logistic
from ibot.eval.robustness import tested_classifier as head
from ibot.system.distributed import Processes


def test_the_classifier_that_is_fitted_is_a_regression_on_unit_tokens(context):
    train = context.features(context.train, "train")[CLASS_TOKEN]
    unit = F.normalize(train.rows, dim=1)
    weight = fit_logistic(unit, train.labels, 10, 0.1 / 100, tolerance=1e-6)
    got = head.classifier_for(context)
    want = unit @ weight.float().T
    torch.testing.assert_close(got.head(train.rows), want, rtol=0, atol=2e-2)
    assert got.unit and got.feature == CLASS_TOKEN and (got.bias == 0).all()
    assert got.config.pos_size == (32, 32) and got.view == context.view
    about = {"protocol": "logistic", "penalty": "0.1/n", "fitted_on": str(context.train.root)}
    assert got.about == about
    assert head.head_settings(got) == {"feature": "n1m0", "classifier": about}
    assert "penalty 0.1/n" in head.head_notes(context, got)[0]
    stored = replace(got, about={})
    assert head.head_notes(context, stored) == []
    other = replace(stored, view=View((32, 32), "pad"))
    assert "other views" in head.head_notes(context, other)[0]


def test_views_and_draws_follow_the_mode(context):
    published = replace(context, mode="published", view=View((32, 32), keep=False))
    assert head.published_view(context) is context
    assert head.published_view(published).view == View((32, 32), "crop", "bilinear", keep=False)
    assert head.as_stored(published).view == View((32, 32), keep=True)
    numbers = np.array([0, 5, 1023, 1024, 2047, 2048])
    assert head.draw_number(numbers, "clean").tolist() == numbers.tolist()
    assert head.draw_number(numbers, "published").tolist() == [0, 0, 0, 1, 1, 2]


@pytest.mark.parametrize(("rank", "world"), [(0, 1), (0, 2), (1, 3)])
def test_each_process_scores_its_batches_and_counts_its_images(context, monkeypatch, rank, world):
    """The other processes give nothing here, so that what comes back is this one's own."""
    told, asked = [], []

    def gather(own):
        return [own if place == rank else [] for place in range(world)]

    monkeypatch.setattr(passes, "gather", gather)
    images = LabelledSubset(context.val, np.arange(1, 60, 2))
    context = replace(
        context,
        batch=7,
        processes=Processes(rank, world, rank),
        counter=lambda name: lambda *now: told.append((name, *now)),
    )

    def score(views, index):
        asked.append(index.tolist())
        return torch.from_numpy(index)[:, None] * torch.ones(1, 2)

    found = head.score_labelled(context, images, score, "some")
    batches = [list(range(start, min(start + 7, 30))) for start in range(0, 30, 7)][rank::world]
    own = [i for batch in batches for i in batch]
    assert asked == batches and found.index.tolist() == own
    assert found.rows.tolist() == [[i, i] for i in own]
    assert found.labels.tolist() == [context.val.label(1 + 2 * i) for i in own]
    sizes = np.cumsum([len(batch) for batch in batches]).tolist()
    assert told == [("some", size, len(own)) for size in sizes]
    assert not found.cached and found.bad == []

import itertools
import json
import math
import sys
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from sklearn import metrics

from ibot.config.schema import HeadConfig
from ibot.errors import ConfigError, MissingExtra, WeightsError
from ibot.eval.features.tokens import CLASS_TOKEN
from ibot.eval.probes import cluster as protocol
from ibot.eval.probes import cluster_scores as cluster
from ibot.eval.probes.cluster_scores import clustering_scores, contingency, kmeans_clusters
from ibot.eval.probes.settings import ClusterSettings
from ibot.models.head import ProjectionHead


def scores(labels, clusters):
    return clustering_scores(torch.tensor(labels), torch.tensor(clusters))


def random_pair(num_classes, num_clusters, num_samples, seed):
    """Clusters that follow the classes half of the time."""
    g = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, num_classes, (num_samples,), generator=g)
    noise = torch.randint(0, num_clusters, (num_samples,), generator=g)
    follow = torch.rand(num_samples, generator=g) < 0.5
    return labels, torch.where(follow, labels % num_clusters, noise)


def gaussians(num_samples, num_classes, width, seed, spread):
    g = torch.Generator().manual_seed(seed)
    means = F.normalize(torch.randn(num_classes, width, generator=g), dim=1)
    labels = torch.arange(num_samples) % num_classes
    return F.normalize(
        means[labels] + spread * torch.randn(num_samples, width, generator=g), dim=1
    ), labels


def test_golden_scores(golden):
    arrays = np.load(golden / "evaluation.npz", allow_pickle=False)
    cases = json.loads((golden / "evaluation.json").read_text())
    names = [name for name in cases if name.startswith("clustering_")]
    assert len(names) >= 2
    for name in names:
        got = clustering_scores(
            *(torch.from_numpy(arrays[f"{name}/{part}"]) for part in ("label", "pred"))
        )
        for measure in ("acc", "nmi", "ari", "fmi"):
            assert getattr(got, measure) == pytest.approx(100 * cases[name][measure], abs=1e-9), (
                name,
                measure,
            )


def by_hand(labels, clusters):
    """The measures from their definitions: all maps tried, all pairs counted, entropies summed."""
    num = len(labels)
    classes, groups = sorted(set(labels)), sorted(set(clusters))
    joint, of_class, of_cluster = (
        Counter(zip(labels, clusters, strict=True)),
        Counter(labels),
        Counter(clusters),
    )
    short, long = sorted((classes, groups), key=len)
    pair = (lambda s, t: (s, t)) if short is classes else (lambda s, t: (t, s))
    maps = itertools.permutations(long, len(short))
    acc = (
        max(sum(joint[pair(s, t)] for s, t in zip(short, chosen, strict=True)) for chosen in maps)
        / num
    )
    majority = sum(max(joint[c, k] for c in classes) for k in groups) / num
    entropy = [
        -sum(n / num * math.log(n / num) for n in c.values()) for c in (of_class, of_cluster)
    ]
    mutual = sum(
        n / num * math.log(n * num / (of_class[c] * of_cluster[k])) for (c, k), n in joint.items()
    )
    pairs = list(itertools.combinations(range(num), 2))
    same_class = sum(labels[i] == labels[j] for i, j in pairs)
    same_cluster = sum(clusters[i] == clusters[j] for i, j in pairs)
    both = sum(labels[i] == labels[j] and clusters[i] == clusters[j] for i, j in pairs)
    chance = same_class * same_cluster / len(pairs)
    ari = (both - chance) / ((same_class + same_cluster) / 2 - chance)
    return (
        acc,
        majority,
        2 * mutual / sum(entropy),
        ari,
        both / math.sqrt(same_class * same_cluster),
    )


@pytest.mark.parametrize(("num_classes", "num_clusters"), [(4, 4), (3, 6), (6, 3)])
def test_scores_equal_their_definitions_on_a_toy_set(num_classes, num_clusters):
    labels, clusters = random_pair(num_classes, num_clusters, 60, seed=num_clusters)
    got = clustering_scores(labels, clusters)
    want = by_hand(labels.tolist(), clusters.tolist())
    assert (got.acc, got.majority, got.nmi, got.ari, got.fmi) == pytest.approx(
        [100 * v for v in want], abs=1e-6
    )


@pytest.mark.parametrize(("num_classes", "num_clusters"), [(10, 10), (7, 30), (30, 7)])
def test_scores_equal_the_libraries_on_random_data(num_classes, num_clusters):
    labels, clusters = random_pair(num_classes, num_clusters, 2000, seed=num_classes)
    got = clustering_scores(labels, clusters)
    table = metrics.cluster.contingency_matrix(labels, clusters)
    rows, columns = linear_sum_assignment(table, maximize=True)
    assert got.acc == pytest.approx(100 * table[rows, columns].sum() / 2000, abs=1e-6)
    assert got.nmi == pytest.approx(
        100 * metrics.normalized_mutual_info_score(labels, clusters), abs=1e-6
    )
    assert got.ari == pytest.approx(100 * metrics.adjusted_rand_score(labels, clusters), abs=1e-6)
    assert got.fmi == pytest.approx(100 * metrics.fowlkes_mallows_score(labels, clusters), abs=1e-6)
    assert got.majority >= got.acc and got.num_clusters == num_clusters


def test_clusters_beyond_the_number_of_classes_count_as_wrong():
    # Class 0 is split in 3 + 2, class 1 in 4 + 1: one part of each is matched.
    got = scores([0] * 5 + [1] * 5, [0, 0, 0, 1, 1, 2, 2, 2, 2, 3])
    assert got.acc == pytest.approx(70) and got.majority == 100 and got.num_clusters == 4


def test_classes_beyond_the_number_of_clusters_count_as_wrong():
    # Cluster 0 holds 3 of class 0 and 2 of class 1; cluster 1 holds 4 of class 2 and 1 of class 1.
    got = scores([0, 0, 0, 1, 1, 1, 2, 2, 2, 2], [0, 0, 0, 0, 0, 1, 1, 1, 1, 1])
    assert (
        got.acc == pytest.approx(70) and got.majority == pytest.approx(70) and got.num_clusters == 2
    )


def test_the_best_map_is_not_the_greedy_one():
    # Both clusters prefer class 0. Greedy takes 4 + 0, the best map 3 + 3.
    got = scores([0] * 7 + [1] * 3, [0] * 4 + [1] * 3 + [0] * 3)
    assert got.acc == pytest.approx(60) and got.majority == pytest.approx(70)


def test_empty_cluster_ids_change_nothing():
    labels, clusters = random_pair(5, 5, 200, seed=0)
    spaced = torch.tensor([3, 8, 40, 41, 8191])[clusters]
    assert clustering_scores(labels, spaced) == clustering_scores(labels, clusters)
    assert contingency(np.array([2, 9, 9]), np.array([7, 7, 1])).tolist() == [[0, 1], [1, 1]]


def test_a_permutation_of_the_cluster_ids_changes_nothing():
    labels, clusters = random_pair(6, 8, 300, seed=1)
    order = torch.randperm(8, generator=torch.Generator().manual_seed(0))
    got, want = clustering_scores(labels, order[clusters]), clustering_scores(labels, clusters)
    for measure in ("acc", "majority", "nmi", "ari", "fmi", "num_clusters"):
        # Sums in another order.
        assert getattr(got, measure) == pytest.approx(getattr(want, measure), abs=1e-9)


def test_perfect_and_random_clusters():
    labels = torch.arange(4).repeat(500)
    perfect = clustering_scores(labels, 3 - labels)
    assert (perfect.acc, perfect.majority, perfect.num_clusters) == (100, 100, 4)
    assert (perfect.nmi, perfect.ari, perfect.fmi) == pytest.approx((100, 100, 100))
    chance = clustering_scores(
        labels, labels[torch.randperm(2000, generator=torch.Generator().manual_seed(0))]
    )
    assert chance.acc == pytest.approx(25, abs=4) and abs(chance.ari) < 1 and chance.nmi < 1
    one = clustering_scores(labels, torch.zeros_like(labels))
    assert (one.acc, one.majority, one.nmi, one.ari, one.num_clusters) == (25, 25, 0, 0, 1)


@pytest.mark.parametrize("full_max", [cluster.FULL_KMEANS_MAX, 100], ids=["all", "batches"])
def test_kmeans_finds_separable_gaussians(monkeypatch, full_max):
    monkeypatch.setattr(cluster, "FULL_KMEANS_MAX", full_max)
    features, labels = gaussians(600, 6, 32, seed=2, spread=0.02)
    got = kmeans_clusters(features, 6, seed=0)
    assert got.dtype == torch.int64 and got.shape == (600,)
    score = clustering_scores(labels, got)
    assert (score.acc, score.majority, score.num_clusters) == (100, 100, 6)
    assert (score.nmi, score.ari, score.fmi) == pytest.approx((100, 100, 100))
    assert clustering_scores(labels, kmeans_clusters(features.bfloat16(), 6, seed=0)).acc == 100


def test_kmeans_repeats_with_the_same_seed():
    features, _ = gaussians(400, 10, 8, seed=3, spread=0.5)
    assert torch.equal(kmeans_clusters(features, 10, seed=5), kmeans_clusters(features, 10, seed=5))
    assert not torch.equal(
        kmeans_clusters(features, 10, seed=5), kmeans_clusters(features, 10, seed=6)
    )


def test_kmeans_of_permuted_labels_is_chance():
    features, labels = gaussians(800, 4, 16, seed=4, spread=0.05)
    permuted = labels[torch.randperm(800, generator=torch.Generator().manual_seed(0))]
    score = clustering_scores(permuted, kmeans_clusters(features, 4, seed=0))
    # The best of 24 maps of 800 guesses with a deviation of 1.5.
    assert score.acc < 31 and abs(score.ari) < 1


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"\(3,\).*\(2,\)"):
        scores([0, 1, 2], [0, 1])
    with pytest.raises(ValueError, match=r"\(0,\)"):
        scores([], [])
    with pytest.raises(ValueError, match="4 clusters"):
        kmeans_clusters(torch.eye(3), 4, seed=0)
    with pytest.raises(ValueError, match="0 clusters"):
        kmeans_clusters(torch.eye(3), 0, seed=0)


@pytest.mark.parametrize(
    ("module", "package"),
    [
        ("sklearn.metrics", "scikit-learn"),
        ("scipy.optimize", "scipy"),
        ("sklearn.cluster", "scikit-learn"),
    ],
)
def test_a_missing_library_names_its_package(monkeypatch, module, package):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtra, match=f"pip install .{package}>="):
        kmeans_clusters(torch.eye(3), 2, seed=0) if module == "sklearn.cluster" else scores(
            [0, 1], [0, 1]
        )


def with_head(monkeypatch, outputs):
    """Weights that hold a projection head of so many prototypes, or none of ours."""
    torch.manual_seed(outputs or 0)
    config = HeadConfig(out_dim=outputs or 1, hidden_dim=16, bottleneck_dim=8)
    head = ProjectionHead(24, config, shared=True).eval() if outputs else None
    monkeypatch.setattr(protocol, "load_weights", lambda weights, key: None)
    monkeypatch.setattr(protocol, "projection_head", lambda weights, width, key: head)
    return head


@pytest.mark.parametrize(
    ("outputs", "settings", "by"),
    [
        (10, {}, "prototypes"),
        (12, {}, "kmeans"),
        (12, {"by": "prototypes"}, "prototypes"),
        (10, {"by": "kmeans"}, "kmeans"),
        (None, {"k": 4}, "kmeans"),
    ],
)
def test_clusters_are_prototypes_or_means_of_the_validation_images(
    context, monkeypatch, outputs, settings, by
):
    head = with_head(monkeypatch, outputs)
    monkeypatch.setattr(protocol, "CHUNK", 17)
    monkeypatch.setattr(protocol, "RESAMPLES", 8)
    context = replace(context, seed=2)
    val = context.features(context.val, "val")[CLASS_TOKEN]
    if by == "prototypes":
        with torch.no_grad():
            rows = head.mlp(val.rows) @ F.normalize(head.last_layer.weight_v, dim=1).T
        clusters = rows.argmax(1)
    else:
        rows = F.normalize(val.rows, dim=1)
        clusters = kmeans_clusters(rows, settings.get("k", 10), 2)
    records = protocol.run(context, ClusterSettings(**settings))
    names = ("acc", "majority", "nmi", "ari", "fmi")
    want = clustering_scores(val.labels, clusters)
    for name, record in zip(names, records, strict=True):
        assert record.metric == f"cluster_{name}" and record.row == name
        assert record.value == pytest.approx(getattr(want, name))
        low, high = record.interval
        assert (-100 if name == "ari" else 0) <= low < record.value < high <= 100
        assert record.settings["by"] == by and record.num_val == 60
        assert record.extra["num_clusters"] == want.num_clusters
        assert record.notes[0] == f"{want.num_clusters} non-empty clusters by {by}"
        more = by == "prototypes" and outputs != 10
        assert list(record.notes[1:]) == (
            ["12 prototypes for 10 classes: unmatched ones count as wrong"] if more else []
        )


def test_clusters_that_cannot_be_had_are_refused(context, monkeypatch):
    with_head(monkeypatch, None)
    for wrong, match in (({"k": -1}, "k=-1"), ({"k": 61}, "60 validation images cannot make 61")):
        with pytest.raises(ConfigError, match=match):
            protocol.run(context, ClusterSettings(**wrong))
    with pytest.raises(WeightsError, match="no projection head"):
        protocol.run(context, ClusterSettings(by="prototypes"))


def test_intervals_lie_around_the_scores_and_within_what_is_possible(monkeypatch):
    monkeypatch.setattr(protocol, "RESAMPLES", 8)
    labels = torch.arange(40) % 4
    clusters = torch.where(torch.arange(40) < 6, 0, labels)
    found = {name: getattr(clustering_scores(labels, clusters), name) for name in ("acc", "ari")}
    around = protocol.score_intervals(labels, clusters, found, 0)
    assert set(around) == {"acc", "ari"}
    for name, (low, high) in around.items():
        assert low < found[name] < high <= 100
    perfect = protocol.score_intervals(labels, labels, {"acc": 100.0}, 0)
    assert perfect == {"acc": (100.0, 100.0)}
    chance = protocol.score_intervals(labels, torch.arange(40) // 10, {"acc": 0.5, "ari": -99.0}, 0)
    assert chance["acc"][0] == 0 and chance["ari"][0] == -100

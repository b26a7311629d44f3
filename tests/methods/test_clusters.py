"""The controls by k-means, against scikit-learn and exhaustive search."""

from itertools import permutations

import torch
from draws import noise
from sklearn.cluster import KMeans

from ddlib.methods.clusters import (
    Centroids,
    NearestSelection,
    k_means,
    nearest_rows,
    nearest_to_centroid,
)
from ddlib.seeds import generator


def test_k_means_gives_the_centroids_of_scikit_learn_as_images(tiny, members):
    images = k_means(tiny, None, 4, 7, Centroids()).samples.view(3, 4, 1, 8, 8)
    for label, rows in enumerate(members):
        state = generator("centroids", 7, 4, label).initial_seed() % 2**32
        theirs = KMeans(4, n_init=1, random_state=state)
        theirs.fit(tiny.train.samples[rows].flatten(1).numpy())
        centres = torch.from_numpy(theirs.cluster_centers_).view(4, 1, 8, 8)
        torch.testing.assert_close(images[label], centres)


def test_the_nearest_real_images_are_those_of_the_centroids(tiny, members):
    centres = k_means(tiny, None, 3, 2, Centroids()).samples
    images = nearest_to_centroid(tiny, None, [3], 2, NearestSelection())[3].samples
    for place, (centre, image) in enumerate(zip(centres, images, strict=True)):
        real = tiny.train.samples[members[place // 3]]
        distances = [(image - centre).square().sum().item() for image in real]
        assert torch.equal(image, real[distances.index(min(distances))])


def test_no_image_is_nearest_to_two_centroids():
    """Where two centres share a nearest point, the least sum of squares counts."""
    for seed in range(5):
        points, centres = noise(6, 2, seed=seed), 0.1 * noise(3, 2, seed=seed + 50)
        distances = torch.cdist(centres, points).square()
        choices = permutations(range(6), 3)
        best = min(choices, key=lambda rows: sum(distances[i, row] for i, row in enumerate(rows)))
        assert tuple(nearest_rows(points, centres).tolist()) == best

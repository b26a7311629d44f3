"""A method of one's own: k-means in the pixels of every class, with restarts."""

import torch
from pydantic import PositiveInt
from sklearn.cluster import k_means

from ddlib.methods import METHODS, Method, common
from ddlib.parameters import Parameters


class Clustering(Parameters):
    restarts: PositiveInt = 1


def distil(dataset, network, ipc, seed, parameters):
    options = {"n_clusters": ipc, "n_init": parameters.restarts, "random_state": seed}
    members = [dataset.train.at(rows).cpu() for rows in common.class_members(dataset)]
    centres = [k_means(images.flatten(1).numpy(), **options)[0] for images in members]
    images = torch.cat([*map(torch.from_numpy, centres)]).view(-1, *dataset.sample_shape)
    return common.finished(dataset, images, "clusters", parameters, seed)


METHODS["clusters"] = Method(distil, Clustering)

"""What a study of vectors or sequences leaves out, or refuses, because it is made for images."""

from ddlib.configurations.configuration import Configuration
from ddlib.data.base import DataSet
from ddlib.methods import METHODS
from ddlib.parameters import Parameters
from ddlib.study.settings import Settings

OF_IMAGES = ("dsa", "mgd3", "rded", "sre2l", "imported")
"""Methods that only make images."""
AUGMENTATIONS = ("none", "mixup")
"""Augmentations that do not need images."""


def for_kind(settings: Settings, dataset: DataSet) -> Settings:
    """Return the settings, without augmentations of images if the samples are none.

    That is the default then. Raises ValueError for what was asked for and needs images.
    """
    if dataset.kind == "image":
        return settings
    for name, configuration in settings.configurations.items():
        _check(f"the configuration {name!r}", configuration, dataset)
        if configuration.teacher:
            _check(f"the teacher of {name!r}", configuration.teacher, dataset)
    methods = {}
    for name, (base, parameters) in settings.methods.items():
        if base in OF_IMAGES:
            others = ", ".join(method for method in METHODS if method not in OF_IMAGES)
            raise _refusal(f"the method {name!r} makes images", dataset, f"from {others}")
        methods[name] = base, _plain(name, parameters, dataset)
    return settings.model_copy(update={"methods": methods})


def _check(what: str, configuration: Configuration, dataset: DataSet) -> None:
    augmentation, start = configuration.augmentation, configuration.initialisation
    if configuration.pretrained:
        what = f"{what} has initialisation={start!r}, which is for images"
        raise _refusal(what, dataset, "default or orthogonal")
    if augmentation not in AUGMENTATIONS:
        what = f"{what} has augmentation={augmentation!r}, which is for images"
        raise _refusal(what, dataset, " or ".join(AUGMENTATIONS))


def _plain(name: str, parameters: Parameters, dataset: DataSet) -> Parameters:
    """Return the parameters of a method without augmentations, unless they were asked for."""
    changes = {}
    for field, value in parameters:
        if isinstance(value, Parameters):
            _plain(f"{name}: {field}", value, dataset)
        if "augmentation" in field:
            changes[field] = "none"
            if field in parameters.model_fields_set and value not in AUGMENTATIONS:
                what = f"the method {name!r} has {field}={value!r}, which is for images"
                raise _refusal(what, dataset, "none")
    return parameters.replace(**changes)


def _refusal(what: str, dataset: DataSet, choice: str) -> ValueError:
    return ValueError(f"{what}, but {dataset.name} holds {dataset.kind}s; choose {choice}")

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
            raise ValueError(
                f"the method {name!r} makes images, but {dataset.name} holds {dataset.kind}s; "
                f"choose from {others}"
            )
        methods[name] = base, _plain(name, parameters, dataset)
    return settings.model_copy(update={"methods": methods})


def _check(what: str, configuration: Configuration, dataset: DataSet) -> None:
    problem = None
    if configuration.augmentation not in AUGMENTATIONS:
        problem = f"augmentation={configuration.augmentation!r}", " or ".join(AUGMENTATIONS)
    if configuration.pretrained:
        problem = f"initialisation={configuration.initialisation!r}", "default or orthogonal"
    if problem:
        raise ValueError(
            f"{what} has {problem[0]}, which is for images, but {dataset.name} holds "
            f"{dataset.kind}s; choose {problem[1]}"
        )


def _plain(name: str, parameters: Parameters, dataset: DataSet) -> Parameters:
    """Return the parameters of a method without augmentations, unless they were asked for."""
    for field, value in parameters:
        if isinstance(value, Parameters):
            _plain(f"{name}: {field}", value, dataset)
    fields = [field for field in type(parameters).model_fields if "augmentation" in field]
    for field in fields:
        value = getattr(parameters, field)
        if field in parameters.model_fields_set and value not in AUGMENTATIONS:
            raise ValueError(
                f"the method {name!r} has {field}={value!r}, which is for images, but "
                f"{dataset.name} holds {dataset.kind}s; choose none"
            )
    return parameters.replace(**dict.fromkeys(fields, "none"))

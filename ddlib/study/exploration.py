"""The parameters of the notebooks that read finished studies; they load no torch."""

from pydantic import Field, PositiveInt

from ddlib.parameters import Parameters, Text


class Exploration(Parameters):
    """The parameters of notebooks 05 and 06.

    studies: results folders of the studies to read, from the project's root (empty: the findings
    that come with the library); results: the folder for the executed notebook; draws: as in
    `Settings`.
    """

    studies: list[Text] = Field(examples=[["results/methods/quick"]])
    results: Text = Field(examples=["results/mine"])
    draws: PositiveInt = 1000

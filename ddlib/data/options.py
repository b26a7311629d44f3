"""The options of a data set, and which formats of data have them."""

from typing import Literal

from pydantic import PositiveInt, field_validator

from ddlib.parameters import Parameters, Text


class Options(Parameters):
    """How to read a data set.

    classes: names of the classes to keep; labels become 0..C-1 in this order.
    per_class: keep the first per_class training samples of every class (all, if it has fewer).
    held_out: test on the last held_out training samples of every class, and train on the rest. Use
        it to choose a method's parameters without looking at the test set.
    download: download a named set that is not found.

    Images:
    image_size: pixels. The shorter side is resized to it (bilinear, antialiased), then the centre
        is cropped. Named sets are normalised by published statistics, other sets by those of all
        their training images.
    zca: whiten (see `Whitening`, fitted to all training images) instead of normalising channels.

    Tables and texts:
    label: the column of the classes.
    missing: of a table: what replaces missing numbers; missing words become the most frequent.
    form: of texts: vectors of documents, or sequences of tokens.
    dimension: of texts: keep the first values of each vector or token.
    length: of texts in tokens: longer ones are cut, shorter ones are padded.
    """

    classes: list[str | int] | tuple[str | int, ...] | None = None
    per_class: PositiveInt | None = None
    held_out: PositiveInt | None = None
    image_size: PositiveInt | None = None
    zca: bool = False
    label: Text = "label"
    missing: Literal["mean", "most_frequent"] | None = None
    form: Literal["document", "tokens"] = "document"
    dimension: PositiveInt | None = None
    length: PositiveInt = 32
    download: bool = False

    @field_validator("classes", mode="after")
    @classmethod
    def _as_names(cls, classes: list | tuple | None) -> list[str] | None:
        return None if classes is None else [str(name) for name in classes]

    def check_format(self, name: str, format: str) -> None:
        """Raise ValueError for an option that data of this format do not have."""
        forms = [format, f"texts, form: {self.form}"][: 1 + (format == "texts")]
        for option, formats in FORMATS.items():
            value, default = getattr(self, option), type(self).model_fields[option].default
            if value != default and not set(forms) & set(formats):
                raise ValueError(
                    f"{option}={value!r} is an option of {' and '.join(formats)}, but {name} holds "
                    f"{forms[-1]}; leave {option} out"
                )


FORMATS = {
    **dict.fromkeys(("image_size", "zca"), ("images",)),
    "missing": ("tables",),
    "label": ("tables", "texts"),
    **dict.fromkeys(("form", "dimension"), ("texts",)),
    "length": ("texts, form: tokens",),
}
"""The formats of data that have an option. Options that are not named are for all."""

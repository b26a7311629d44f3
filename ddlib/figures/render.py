"""Show charts of a notebook: live in JupyterLab, as pictures elsewhere."""

import io
import warnings

import altair as alt
import vl_convert
from PIL import Image

LIVE = "application/vnd.vegalite.v5+json"  # the newest MIME type that JupyterLab can render


def enable() -> None:
    """Show each chart live in JupyterLab, without a network, with a PNG for other viewers.

    Warnings are shown by their kind and text alone, without this machine's paths. Call it once in a
    notebook.
    """
    warnings.formatwarning = lambda text, kind, *_, **__: f"{kind.__name__}: {text}\n"
    alt.renderers.register("ddlib", mime_bundle)
    alt.renderers.enable("ddlib")


def mime_bundle(spec: dict, **_) -> tuple[dict, dict]:
    """Return a chart by MIME type (live, and as a PNG), and the metadata of each type."""
    picture = Image.open(io.BytesIO(vl_convert.vegalite_to_png(spec, scale=2))).convert("RGB")
    png = io.BytesIO()
    picture.save(png, "PNG")  # a fifth of the file that vl_convert writes
    width, height = (side // 2 for side in picture.size)
    menu = {"export": True, "source": False, "compiled": False, "editor": False}
    live = spec | {"$schema": "https://vega.github.io/schema/vega-lite/v5.json"}
    bundle = {LIVE: live, "image/png": png.getvalue(), "text/plain": "<chart>"}
    return bundle, {
        LIVE: {"embed_options": {"actions": menu}},
        "image/png": {"width": width, "height": height},
    }


def small(png: bytes) -> bytes:
    """Reduce a PNG to 128 colours, which makes the file ten times smaller."""
    file = io.BytesIO()
    Image.open(io.BytesIO(png)).convert("RGB").quantize(128).save(file, "PNG", optimize=True)
    return file.getvalue()

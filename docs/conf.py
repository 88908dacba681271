"""How the site is built: `make docs`. Nothing is fetched while it is."""

from typing import Any

import dagster as dg
from pydantic import BaseModel

from nsd_pipeline.decoding.config import TrainingConfig
from nsd_pipeline.definitions import defs
from nsd_pipeline.embeddings.encoder_settings import EncoderSettings

project = "nsd_pipeline"
author = "nsd_pipeline contributors"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_enable_extensions = ["substitution"]
myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
html_theme = "pydata_sphinx_theme"
html_title = "nsd_pipeline"
html_theme_options = {"navigation_with_keys": False, "show_toc_level": 2}
html_copy_source = False


def _table(*rows: tuple[Any, ...]) -> str:
    head, *body = [[str(cell).replace("|", "\\|") for cell in row] for row in rows]
    lines = [head, ["---"] * len(head), *body]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _settings(model: type[BaseModel]) -> str:
    """Every setting, as the launchpad describes it."""
    fields = [
        (f"`{name}`", f"`{field.get_default(call_default_factory=True)!r}`", field.description)
        for name, field in model.model_fields.items()
    ]
    return _table(("setting", "default", "meaning"), *fields)


def _cut(spec: dg.AssetSpec) -> str:
    keys = spec.partitions_def.get_partition_keys() if spec.partitions_def else ()
    return f"{len(keys)}: `{keys[0]}`, ..." if keys else "none"


specs = defs.resolve_all_asset_specs()
myst_substitutions = {
    "assets": _table(
        ("asset", "group", "partitions", "what it is"),
        *(
            (
                f"`{spec.key.to_user_string()}`",
                spec.group_name,
                _cut(spec),
                (spec.description or "").splitlines()[0],
            )
            for spec in sorted(
                defs.resolve_all_asset_specs(), key=lambda each: str(each.group_name)
            )
        ),
    ),
    "training": _settings(TrainingConfig),
    "encoder": _settings(EncoderSettings),
}

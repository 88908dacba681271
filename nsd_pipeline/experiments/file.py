"""Reading a file of experiments: families, names, and errors that say where.

    early_visual:                # an experiment: how it differs from the default
      region: Kastner2015
      region_up_to: 7
    sessions:                    # a family: sessions_1, sessions_10, sessions_40
      sessions: [first 1, first 10, first 40]

A list where one value belongs makes an experiment for each of its values.
"""

import os
import re
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from importlib.resources import files
from itertools import product
from pathlib import Path
from typing import Any, Final

import yaml
from pydantic import TypeAdapter, ValidationError

from nsd_pipeline.errors import NsdError
from nsd_pipeline.experiments.entry import DEFAULT, Entry, Experiment

_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_.-]*")
_LISTS: Final = tuple(
    name for name, field in Entry.model_fields.items() if "list[" in str(field.annotation)
)
"""Settings that are lists themselves."""
_TAKEN: Final = (DEFAULT, "retrieval")
"""Names whose assets would be those that exist: ``retrieval_metrics``."""


def chosen_file() -> Path:
    """The file that ``NSD_EXPERIMENTS`` names, or the shipped one: copy it to write your own."""
    if named := os.environ.get("NSD_EXPERIMENTS"):
        return Path(named).expanduser()
    return Path(str(files("nsd_pipeline.experiments") / "experiments.yaml"))


def read_experiments(path: Path) -> dict[str, Experiment]:
    """Read a file of experiments: ``default``, and those of the file in its order, by name.

    An NsdError if there is no such file, or something in it is not understood: with line and field.
    """
    file = _File(path)
    experiments = {DEFAULT: Experiment(name=DEFAULT, description="The reference's task on betas.")}
    for family, settings in file.content.items():
        for name, one in _members(family, settings):
            try:
                entry = Entry.model_validate(one)
            except ValidationError as error:
                first = error.errors()[0]
                unknown = first["type"] == "extra_forbidden"
                why = _no_field(*first["loc"]) if unknown else first["msg"]
                raise file.error((family, *first["loc"]), why) from error
            experiment = Experiment.of(name, entry)
            taken = {each.identifier for each in experiments.values()}
            if not _NAME.fullmatch(name) or experiment.identifier in {*_TAKEN, *taken}:
                raise file.error(
                    (family,),
                    f"{name!r} is taken, or is no name: letters, digits, _, - and . make one, and"
                    f" no two may be alike but for these signs. {DEFAULT} cannot be changed: give"
                    " what differs from it another name",
                )
            experiments[name] = experiment
    _check_starts(file, experiments)
    return experiments


def _members(family: str, settings: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Experiments of an entry: itself, or one for each combination of the values of its lists."""
    lists = {
        name: value
        for name, value in settings.items()
        if isinstance(value, list) and name not in _LISTS
    }
    for values in product(*lists.values()):
        words = [_word(value) for value in values]
        yield "_".join([family, *words]), {**settings, **dict(zip(lists, values, strict=True))}


def _word(value: Any) -> str:
    """A value as part of a name: of ``first 10`` the 10, of ``lab/model-b`` the model."""
    if isinstance(value, Mapping):  # an encoder, known by its model
        value = value.get("model", "encoder")
    text = str(value).rsplit("/", 1)[-1].removeprefix("first ")
    return re.sub(r"[^A-Za-z0-9.-]+", "_", text).strip("_")


def _check_starts(file: "_File", experiments: Mapping[str, Experiment]) -> None:
    for name, experiment in experiments.items():
        seen, start = [name], experiment.training.start_from
        while start is not None:
            if start not in experiments:
                raise file.error(
                    (name, "start_from"),
                    f"there is no experiment {start!r}; there are {', '.join(experiments)}",
                )
            if start in seen:
                raise file.error(
                    (name, "start_from"), f"goes round in a circle: {' -> '.join([*seen, start])}"
                )
            seen.append(start)
            start = experiments[start].training.start_from


class _File:
    """A YAML file: its content, and the line of whatever is wrong in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            text = path.read_text(encoding="utf-8-sig")
            self._root = yaml.compose(text, Loader=yaml.SafeLoader)
            content = yaml.safe_load(text) or {}
        except (OSError, UnicodeDecodeError) as error:
            why = getattr(error, "strerror", None) or error
            raise NsdError(
                f"The file of experiments {path} cannot be read: {why}.",
                next_step="let NSD_EXPERIMENTS name a YAML file, or unset it.",
            ) from error
        except yaml.YAMLError as error:
            raise NsdError(
                f"The file of experiments {path} is not YAML: {error}.",
                next_step="mend it; the package's own shows the form.",
            ) from error
        if not isinstance(content, dict):
            raise self.error((), "it is no mapping from names of experiments to their settings")
        for name, settings in content.items():
            if not isinstance(settings, dict | None):
                raise self.error((name,), "it is no mapping of settings")
        self.content: dict[str, dict[str, Any]] = {
            str(name): settings or {} for name, settings in content.items()
        }

    def error(self, where: tuple[Any, ...], problem: str) -> NsdError:
        """What is wrong with a setting (experiment, field, ...), and in which line."""
        named = ": ".join(str(part) for part in where)
        return NsdError(
            f"{self.path}, line {self._line(where)}: {f'{named}: ' if named else ''}{problem}.",
            next_step="correct the file. Fields are those of a training, `encoder` and"
            " `description`; docs/experiments.md lists them.",
        )

    def _line(self, where: tuple[Any, ...]) -> int:
        node, line = self._root, 1
        for part in where:
            if not isinstance(node, yaml.MappingNode):
                break
            for key, value in node.value:
                if key.value == str(part):
                    node, line = value, key.start_mark.line + 1
                    break
            else:
                # A member of a family is not in the file by its own name.
                break
        return line


def _no_field(name: str | int, *rest: str | int) -> str:
    alike = [] if rest else get_close_matches(str(name), Entry.model_fields, n=1)
    return f"there is no such field{f': `{alike[0]}` is one' if alike else ''}"


def json_schema() -> dict[str, Any]:
    """JSON Schema of a file of experiments, for editors."""
    schema = TypeAdapter(dict[str, Entry | None]).json_schema()
    for name, field in schema["$defs"]["Entry"]["properties"].items():
        if name not in _LISTS:  # a list makes a family
            one = {key: field.pop(key) for key in [*field] if key not in ("title", "description")}
            default = {"default": one.pop("default")} if "default" in one else {}
            field |= {"anyOf": [one, {"type": "array", "items": one}], **default}
    return schema

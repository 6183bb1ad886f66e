"""Groups of classes, read from a file."""

from __future__ import annotations

from collections.abc import Sequence

from cl_framework.errors import UserError, did_you_mean
from scenarios.data.text_records import read_json


def read_groups(path: str, class_names: Sequence[str]) -> list[tuple[int, ...]]:
    """Return the class ids of each group, in the order of the file.

    Args:
        path: A JSON file: name of the group -> names of its classes.
        class_names: Name of each class id.

    Raises:
        UserError: If the file is missing or laid out in another way, or names a class twice or one that is not there.
    """
    content = read_json(path)
    fine = isinstance(content, dict) and content and all(isinstance(v, list) and v for v in content.values())
    if not isinstance(content, dict) or not fine:
        raise UserError(f'{path} holds no groups; write {{"name": ["class", ...], ...}}, with a class in each.')
    place, used = {c: i for i, c in enumerate(class_names)}, set[str]()
    for name, classes in content.items():
        for c in map(str, classes):
            if c not in place:
                raise UserError(f"{path}: group {name!r} names no class {c!r} that is there. {did_you_mean(c, place)}")
            if c in used:
                raise UserError(f"{path}: class {c!r} is named twice, again in group {name!r}; name each once.")
            used.add(c)
    return [tuple(place[str(c)] for c in classes) for classes in content.values()]

"""Tasks and groups by name: those that come with the package, and YAML files of the user's."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from training.config.reading import from_dict
from training.suites.task import Entry, Group, Task

_HERE = Path(__file__).parent
_OVERRIDES = ("shots", "shots_order", "shot_delimiter", "metric", "baseline")


class Members(NamedTuple):
    """A group, and the names that its tasks have in the results."""

    group: Group
    tasks: tuple[str, ...]


class Resolved(NamedTuple):
    """Tasks in order, each name once; the groups among them; the user's own YAML files that were read."""

    tasks: list[Task]
    groups: list[Members]
    files: list[str]


def names() -> dict[str, list[str]]:
    """What comes with the package: {"tasks": [...], "groups": [...]}."""
    return {kind: sorted(path.stem for path in (_HERE / kind).glob("*.yaml")) for kind in ("tasks", "groups")}


def resolve(wanted: Sequence[str], shots: int | None = None) -> Resolved:
    """The tasks of names, groups and YAML files; `shots` in place of what they say.

    Raises ValueError naming a task or file that is not there or wrong, or two different tasks of one name.
    """
    tasks: dict[str, Task] = {}
    groups: list[Members] = []
    files: list[str] = []

    def add(task: Task) -> str:
        if shots is not None and task.form != "text":
            task = dataclasses.replace(task, shots=shots)
        if tasks.setdefault(task.name, task) != task:
            raise ValueError(f"tasks: two different ones are called {task.name}; give one of them another name")
        return task.name

    def read(name: str) -> Task | Group:
        path = _find(name)
        if path.parent.parent != _HERE:
            files.append(str(path))
        return _parse(path)

    for name in wanted:
        found = read(name)
        if isinstance(found, Task):
            add(found)
            continue
        members = []
        for entry in found.tasks:
            task = read(entry.task)
            if not isinstance(task, Task):
                raise ValueError(f"{name}: {entry.task} is a group; a group holds tasks only")
            members.append(add(_overridden(task, entry)))
        groups.append(Members(found, tuple(members)))
    return Resolved(list(tasks.values()), groups, files)


def _find(name: str) -> Path:
    if name.endswith((".yaml", ".yml")):
        if not Path(name).is_file():
            raise ValueError(f"tasks: there is no file {name}")
        return Path(name)
    for kind in ("groups", "tasks"):
        path = _HERE / kind / f"{name}.yaml"
        if path.is_file():
            return path
    known = names()
    raise ValueError(
        f"tasks: unknown {name!r}; there are the groups {', '.join(known['groups'])}, the tasks "
        f"{', '.join(known['tasks'])}, and files that end in .yaml"
    )


def _parse(path: Path) -> Task | Group:
    try:
        import yaml
    except ImportError:
        raise ValueError("task files need the package PyYAML: pip install pyyaml") from None
    try:
        document: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"{path}: cannot be read as YAML: {error}") from None
    if not isinstance(document, dict):
        raise ValueError(f"{path}: expected an object with the fields of a task or a group")
    document.setdefault("name", path.stem)
    try:
        return from_dict(Group, document) if "tasks" in document else from_dict(Task, document)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _overridden(task: Task, entry: Entry) -> Task:
    changed = {name: getattr(entry, name) for name in _OVERRIDES if getattr(entry, name) is not None}
    result = dataclasses.replace(task, **changed)
    if entry.name:
        return dataclasses.replace(result, name=entry.name)
    return result if result == task else dataclasses.replace(result, name=f"{task.name}_{result.shots}shot")

"""``bud init``: a team's own repository, from nothing to one that validates. (I/O)

The files are those of ``templates/init``, with the JSON Schemas of every kind and
the settings by which editors find them. It writes into an empty folder only, and
never changes a file that is there.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from schemas.errors import PermanentError
from schemas.kinds import KINDS, json_schema

__all__ = ["scaffold", "schema_files"]

TEMPLATE = Path(__file__).resolve().parent.parent / "templates" / "init"
SCHEMAS = ".schemas"


def scaffold(root: Path) -> list[Path]:
    """Make a repository in a folder that is empty or not there; return its files.

    Raises:
        PermanentError: something is there already, or it cannot be written.
    """
    try:
        if root.exists() and any(root.iterdir()):
            raise PermanentError(
                f"cannot make a repository in {root}: it is not empty",
                hint="name a new folder; to start from an existing repository, copy "
                "spec/ and environments/ of a new one into it",
            )
        shutil.copytree(TEMPLATE, root, dirs_exist_ok=True)
        for name, content in _editor_files().items():
            file = root / name
            file.parent.mkdir(exist_ok=True)
            file.write_bytes(content)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise PermanentError(
            f"cannot make a repository in {root}: {reason}",
            hint="name a folder that you may write",
        ) from error
    return sorted(file for file in root.rglob("*") if file.is_file())


def schema_files() -> dict[str, bytes]:
    """File name -> the JSON Schema of one kind, the same bytes every time."""
    return {
        f"{kind.lower()}.json": _json(_without_titles(json_schema(kind)))
        for kind in KINDS
    }


def _editor_files() -> dict[str, bytes]:
    """Schemas, and where Visual Studio Code's YAML extension looks for them. Files
    that say how an environment differs are partial, and no schema fits them."""
    places = {
        f"./{SCHEMAS}/{kind.lower()}.json": "environments/*/environment.yaml"
        if kind == "Environment"
        else [f"spec/{kind.lower()}/*.yaml", f"spec/*/{kind.lower()}/*.yaml"]
        for kind in KINDS
    }
    return {
        **{f"{SCHEMAS}/{name}": content for name, content in schema_files().items()},
        ".vscode/extensions.json": _json({"recommendations": ["redhat.vscode-yaml"]}),
        ".vscode/settings.json": _json({"yaml.schemas": places}),
    }


def _without_titles(schema: object) -> object:
    """Pydantic makes a title of every field's name; editors show it twice."""
    if isinstance(schema, list):
        return [_without_titles(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: _without_titles(value)
        for key, value in schema.items()
        if key != "title" or not isinstance(value, str)
    }


def _json(content: object) -> bytes:
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()

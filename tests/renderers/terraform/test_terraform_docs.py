"""docs/clusters.md speaks of what the modules hold, and leaves out nothing big."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
TEXT = (ROOT / "docs" / "clusters.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("module", ["aws-eks", "azure-aks"])
def test_every_resource_in_the_docs_is_in_the_module(module: str) -> None:
    prefix = {"aws-eks": "aws_", "azure-aks": "azurerm_"}[module]
    folder = ROOT / "templates" / "terraform" / module
    code = "".join(file.read_text() for file in folder.glob("*.tf"))
    held = set(re.findall(r'^resource "(\w+)"', code, re.MULTILINE))
    said = set(re.findall(rf"\b{prefix}\w+", TEXT))
    assert said
    assert said <= held

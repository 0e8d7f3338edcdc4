"""A search for leaks that finds nothing must be one that would have found them."""

import base64
import gzip
import json
import zipfile
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.reconciler.targets.canary import hits

CANARY = 'canary+/aws/secret=0123"456789'


@pytest.mark.parametrize("before", ["", "a", "ab", "abc"])
def test_the_search_finds_every_form_of_what_was_planted(
    tmp_path: Path, before: str
) -> None:
    text = f"{before}{CANARY}xyz"
    (tmp_path / "plain").write_text(text)
    (tmp_path / "json").write_text(json.dumps({"a": text}))
    (tmp_path / "url").write_text(quote(text, safe=""))
    (tmp_path / "hex").write_text(text.encode().hex())
    (tmp_path / "base64").write_bytes(base64.b64encode(text.encode()))
    (tmp_path / "base64url").write_bytes(base64.urlsafe_b64encode(text.encode()))
    (tmp_path / "gzip").write_bytes(gzip.compress(text.encode()))
    with zipfile.ZipFile(tmp_path / "zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("inside", text)
    files = len([*tmp_path.iterdir()])
    assert len(hits(tmp_path, CANARY, [text, "nothing"])) == files + 1
    assert hits(tmp_path, "another canary", [text]) == []

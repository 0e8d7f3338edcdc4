"""The command, with the module of a test in the place of ours for EKS."""

import os
from pathlib import Path

from reconciler.cli.main import main
from renderers import terraform

folder = Path(os.environ["BUD_TEST_MODULE"])
files = {file.name: file.read_bytes() for file in folder.iterdir()}
beside = terraform.Module(name="aws-eks", files=files)
terraform.Module.read = classmethod(lambda *_: beside)  # type: ignore[method-assign,assignment]
terraform._PROVIDERS = {}

if __name__ == "__main__":
    main()

"""Requests that schemathesis makes of the server's own description: none may fail, and wrong ones must be refused."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from mimo_mobile.runtime import Model
from tests.runtime.server.conftest import serving


@pytest.mark.slow
@pytest.mark.needs("schemathesis")
def test_the_server_is_as_it_describes_itself(model: Model, tmp_path: Path) -> None:
    program = Path(sys.executable).with_name("schemathesis")
    # A description cannot say how many messages fit into the context, so some that it allows are refused.
    options = ["--max-examples", "30", "--seed", "1", "--no-color", "--exclude-checks", "positive_data_acceptance"]
    with serving(model, most_tokens=4) as running:
        done = subprocess.run(
            [program, "run", f"{running.url}/openapi.json", *options],
            cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
        assert done.returncode == 0 and "generated" in done.stdout, done.stdout[-4000:] + done.stderr[-4000:]
        assert running.metric('mimo_requests_total{status="200"}') > 20
        assert running.metric('mimo_requests_total{status="400"}') > 20

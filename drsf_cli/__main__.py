"""`python -m drsf_cli`: the command line."""

from __future__ import annotations

import sys

from drsf_cli.app import main

sys.exit(main())

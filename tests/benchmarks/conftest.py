"""The benchmarks import each other as scripts do, by the names of their files."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

"""nbval starts from the programs that the build compiled, where there are any."""

import os
from pathlib import Path

from execution import PROGRAMS, cache_folder, with_programs

ROOT = Path(__file__).resolve().parent.parent

os.environ.update(with_programs(cache_folder(ROOT, ROOT / "_build") / PROGRAMS))

import sys
from pathlib import Path

# Data workers are spawned and import what they unpickle, so the stand-ins live in an importable module.
sys.path.insert(0, str(Path(__file__).parent))

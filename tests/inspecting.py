"""Opening every file of a split, as the check of a data set and the start of a training do."""

from mamoe.data.check.split import SplitContents, inspect_split
from mamoe.data.dataset import LayoutDataset
from mamoe.data.folder.prompts import raise_problems


def inspected(source: LayoutDataset, **options) -> SplitContents:
    """What the split holds; every problem in one error."""
    contents = inspect_split(source.files, source.taxonomy, **options)
    raise_problems(list(contents.problems), f"The split {source.split!r}")
    return contents

"""Names that are two on this file system and one on others."""

from __future__ import annotations

from collections import defaultdict

from mamoe.data.folder.matching import same_name
from mamoe.data.folder.split import SplitFiles
from mamoe.prepare.doctor.findings import Finding, Severity


def name_clashes(files: SplitFiles) -> list[Finding]:
    """A warning for pictures whose names differ in capitals alone: where these do not count, as on macOS and Windows, a
    copy of the data set keeps one of them, or one map for both."""
    alike = defaultdict(list)
    for sample in files.samples:
        alike[same_name(sample.key).casefold()].append(sample)
    return [
        Finding(
            severity=Severity.WARNING,
            kind="names in capitals",
            text=f"{other.image} and {first.image.name} differ in capitals alone: on systems where these do not count, "
            "they or their maps are one file; rename one",
            file=other.image,
        )
        for first, *others in alike.values()
        for other in others
    ]

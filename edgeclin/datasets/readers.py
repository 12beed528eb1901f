"""The one list of readers, by the suffix of the files they read."""

from __future__ import annotations

from edgeclin.datasets.csv_signals import CSVSignals
from edgeclin.datasets.dicom import DICOMFiles
from edgeclin.datasets.images import Images
from edgeclin.datasets.reader import Reader
from edgeclin.datasets.wfdb_records import WFDBRecords

IMAGES, SIGNALS = Images(), CSVSignals()
READERS: tuple[Reader, ...] = (IMAGES, DICOMFiles(), WFDBRecords(), SIGNALS)
_BY_SUFFIX = {suffix: reader for reader in READERS for suffix in reader.suffixes}
KINDS = f"{', '.join(reader.kind for reader in READERS[:-1])} or {READERS[-1].kind}"


def reader_of(suffix: str) -> Reader | None:
    """What reads files with this suffix, in any case; None when nothing does."""
    return _BY_SUFFIX.get(suffix.lower())

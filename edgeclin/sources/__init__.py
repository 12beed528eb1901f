"""Where samples come from at the bedside."""

from edgeclin.sources.address import open_source, open_sources
from edgeclin.sources.camera import Camera
from edgeclin.sources.json_lines import JsonLinesSource
from edgeclin.sources.replay import ReplaySource
from edgeclin.sources.source import Origin, Source
from edgeclin.sources.video import VideoFile
from edgeclin.sources.watch import FolderWatch

__all__ = [
    "Camera",
    "FolderWatch",
    "JsonLinesSource",
    "Origin",
    "ReplaySource",
    "Source",
    "VideoFile",
    "open_source",
    "open_sources",
]

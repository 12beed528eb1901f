"""The version of edgeclin, in a module light enough for the build to read."""

VERSION = "0.1.0"

# SPDX-License-Identifier: Apache-2.0
"""Metrics as Prometheus reads them: families, histograms and the text format, version 0.0.4."""

from loxilb.proto.metrics.exposition import CONTENT_TYPE, Family, Kind, Sample, labelled, render
from loxilb.proto.metrics.histogram import Histogram

__all__ = ["CONTENT_TYPE", "Family", "Histogram", "Kind", "Sample", "labelled", "render"]

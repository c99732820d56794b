"""An estimate of the work of analyses, before it begins: rows that the model reads, and the time of one."""

import time
from collections.abc import Iterable

from lit_narrative.circuits.analysis import Analysis, AnalysisJob
from lit_narrative.circuits.inputs import ask_all

TIMED = 8
"""Rows that are read to time one."""
UNCOUNTED = "probes and autoencoders are fitted on top of that"


def estimate(analyses: Iterable[Analysis], job: AnalysisJob) -> str:
    """What the analyses will take, in one line: all of them, and each that reads many rows, the longest first."""
    rows = {analysis.name: analysis.work(job) for analysis in analyses}
    inputs = job.data.inputs[job.data.reference_split].rows(slice(0, TIMED))
    begun = time.perf_counter()
    ask_all(job.bridge, inputs, TIMED)
    each = (time.perf_counter() - begun) / len(inputs)
    largest = sorted((name for name in rows if rows[name]), key=lambda name: -rows[name])
    named = ", ".join(f"{name} {duration(rows[name] * each)}" for name in largest)
    total = sum(rows.values())
    time_taken = f"{duration(total * each)} at {each:.2g} s a row"
    return f"the model reads about {total:,} rows, in {time_taken} ({named}); {UNCOUNTED}"


def duration(seconds: float) -> str:
    """Seconds in words: ``40 s``, ``12 min`` or ``3.5 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"

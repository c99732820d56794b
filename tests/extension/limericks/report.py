"""The report: a page of one section, and a second section that any other report can take too."""

from pathlib import Path

from markupsafe import Markup

from lit_narrative.report.charts import Line, line_chart
from lit_narrative.report.page import Report, Section
from lit_narrative.report.run_folder import read_curves


def make_report(folder: Path) -> Report:
    """The rhymes of the sampled limericks while the policy was reinforced, as a curve and as plain figures."""
    curve = read_curves(folder / "grpo" / "metrics.csv")["rewards/rhyme/mean"]
    chart = line_chart("share of rhymes", [Line("rhyme", curve)])
    section = Section("rhymes", "Rhymes by optimizer step", chart)
    return Report("Limericks before and after reinforcement.", [section], {"rhyme": [share for _, share in curve]})


def scrapbook(folder: Path) -> Section:
    """What the callback `Scrapbook` kept; a model wrote it, so it is escaped."""
    text = (folder / "sft" / "scrapbook.txt").read_text(encoding="utf-8")
    return Section("scrapbook", "Scrapbook", Markup("<pre>{}</pre>").format(text))

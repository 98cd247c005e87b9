"""Results of experiments: the fold and its report, with statistics that are valid at any time. No I/O."""

from bandit_serve.results.decision import Decision
from bandit_serve.results.explanation import Explanation, explanation
from bandit_serve.results.facts import facts_of, p_text
from bandit_serve.results.fold import ResultsFold
from bandit_serve.results.metric_result import AdjustedResult, MetricResult, Preview
from bandit_serve.results.non_inferiority import GuardrailResult
from bandit_serve.results.over_time import (
    MetricHistory,
    ResultsHistory,
    Timeline,
    TimelineChange,
    results_history,
    timeline,
    traffic_of,
)
from bandit_serve.results.report import ArmResult, Report, SampleRatio, report, segments_of
from bandit_serve.results.segment_report import SegmentReport, SegmentResult

__all__ = [
    "AdjustedResult",
    "ArmResult",
    "Decision",
    "Explanation",
    "GuardrailResult",
    "MetricHistory",
    "MetricResult",
    "Preview",
    "Report",
    "ResultsFold",
    "ResultsHistory",
    "SampleRatio",
    "SegmentReport",
    "SegmentResult",
    "Timeline",
    "TimelineChange",
    "explanation",
    "facts_of",
    "p_text",
    "report",
    "results_history",
    "segments_of",
    "timeline",
    "traffic_of",
]

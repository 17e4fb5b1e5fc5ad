"""Step 6 of the road: findings, text, pictures and provenance as one report."""

from medic_ad.report.report import Report
from medic_ad.report.rules import due_warnings
from medic_ad.report.schema import NOTICE

__all__ = ["NOTICE", "Report", "due_warnings"]

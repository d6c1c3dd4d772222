"""Look after a store: what the commands of the command line stand on, for programs."""

from __future__ import annotations

from mpcheckpoint._maintenance.damage import Damage, LeftOut, LogCheck, LogRepair
from mpcheckpoint._maintenance.examination import examine
from mpcheckpoint._maintenance.findings import Examination, Finding
from mpcheckpoint._maintenance.import_task import Imported
from mpcheckpoint._maintenance.importing import import_lines
from mpcheckpoint._maintenance.older_tool import OlderFile, import_older_file, older_files
from mpcheckpoint._maintenance.repairing import plan_repairs, repair
from mpcheckpoint._maintenance.survey import LogSurvey, survey
from mpcheckpoint._maintenance.verification import size_in_bytes, stray_files, verify

__all__ = [
    "Damage",
    "Examination",
    "Finding",
    "Imported",
    "LeftOut",
    "LogCheck",
    "LogRepair",
    "LogSurvey",
    "OlderFile",
    "examine",
    "import_lines",
    "import_older_file",
    "older_files",
    "plan_repairs",
    "repair",
    "size_in_bytes",
    "stray_files",
    "survey",
    "verify",
]

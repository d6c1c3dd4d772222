"""Look after a store: what the commands of the command line stand on, for programs."""

from __future__ import annotations

from mpcheckpoint._maintenance.examination import examine
from mpcheckpoint._maintenance.findings import Examination, Finding
from mpcheckpoint._maintenance.import_task import Imported
from mpcheckpoint._maintenance.importing import import_lines
from mpcheckpoint._maintenance.older_tool import OlderFile, import_older_file, older_files
from mpcheckpoint._maintenance.survey import LogSurvey, survey

__all__ = [
    "Examination",
    "Finding",
    "Imported",
    "LogSurvey",
    "OlderFile",
    "examine",
    "import_lines",
    "import_older_file",
    "older_files",
    "survey",
]

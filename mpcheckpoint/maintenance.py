"""Look after a store: what the commands of the command line stand on, for programs."""

from __future__ import annotations

from mpcheckpoint._backup.backing_up import BackedUpLog, Backup
from mpcheckpoint._backup.restore_steps import LogRestore
from mpcheckpoint._backup.restoring import plan_restore, restore
from mpcheckpoint._maintenance.copying import CopiedLog, StoreCopy, copy_store
from mpcheckpoint._maintenance.imports.import_task import Imported
from mpcheckpoint._maintenance.imports.importing import (
    OlderFile,
    import_lines,
    import_older_file,
    older_files,
)
from mpcheckpoint._maintenance.places.examination import examine
from mpcheckpoint._maintenance.repairs.repairing import plan_repairs, repair
from mpcheckpoint._maintenance.repairs.reports import Damage, LeftOut, LogCheck, LogRepair
from mpcheckpoint._maintenance.repairs.verification import size_in_bytes, stray_files, verify
from mpcheckpoint._maintenance.survey import LogSurvey, survey
from mpcheckpoint._store.findings import Examination, Finding

__all__ = [
    "BackedUpLog",
    "Backup",
    "CopiedLog",
    "Damage",
    "Examination",
    "Finding",
    "Imported",
    "LeftOut",
    "LogCheck",
    "LogRepair",
    "LogRestore",
    "LogSurvey",
    "OlderFile",
    "StoreCopy",
    "copy_store",
    "examine",
    "import_lines",
    "import_older_file",
    "older_files",
    "plan_repairs",
    "plan_restore",
    "repair",
    "restore",
    "size_in_bytes",
    "stray_files",
    "survey",
    "verify",
]

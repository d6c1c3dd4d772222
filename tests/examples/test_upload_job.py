"""The upload job loses nothing when it is killed: nothing that it has printed, and nothing is uploaded twice."""

import sys
from pathlib import Path

from upload_job import PHOTOS

from mpcheckpoint import Checkpoint
from mpcheckpoint.testing import check_records

JOB = Path(__file__).with_name("upload_job.py")


def acknowledged_photo(line):
    return line  # a line that acknowledges nothing would be a None here


def check(store, acknowledged):
    uploads = Checkpoint(store).log("uploads")
    check_records(
        [record.object_key for record in uploads.read()], acknowledged=acknowledged, attempted=PHOTOS
    )


def test_upload_job_killed_at_any_instant_forgets_nothing(crash_test):
    crash_test(
        [sys.executable, JOB, "{store}"],
        kills=10,
        points=["in write_at 5"],
        ack=acknowledged_photo,
        check=check,
    )

"""Upload photos in three processes: ``upload_job.py STORE``. Killed at any instant and started again, it carries on."""

import sys
from multiprocessing import Pool

from mpcheckpoint import Checkpoint

PHOTOS = [f"photo{number}" for number in range(30)]


def upload(photo: str) -> str:
    # ... the work itself ...
    uploads.append(photo, "UPLOADED")
    return photo


if __name__ == "__main__":
    uploads = Checkpoint(sys.argv[1]).log("uploads")
    with Pool(3) as pool:
        for photo in pool.imap_unordered(upload, uploads.pending(PHOTOS)):
            print(photo, flush=True)  # whoever reads this may rely on it

"""Work shared by processes: claims on objects, and a parallel map whose outcomes are in the log."""

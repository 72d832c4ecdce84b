"""What lies in a folder, as its manifests and records say it: runs, artifacts, records, teachers."""

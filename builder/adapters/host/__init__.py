"""Work on this machine: processes, HTTP, workspace, receipts."""

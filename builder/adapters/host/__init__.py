"""Access to this machine and its network: subprocesses, HTTP, workspace, receipts."""

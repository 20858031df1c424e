"""From a request to records: planning, running, verifying; pretraining before it; what this machine can do."""

"""serve-lite beside other servers, on one machine, in one run: `make bench-setup`, then `make bench`.

`contenders/` holds one file for each server: how it is installed, started and asked. `run.py` takes the
rounds, `processes.py` weighs and stops what was started, `load.py` makes the requests, `report.py` writes
the table. What is served is in `apps/`: the same application for everybody, as far as their APIs allow.
"""

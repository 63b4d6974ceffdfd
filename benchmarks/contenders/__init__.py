"""The servers that are compared, one file each. Start with `base.py`; `run.CONTENDERS` lists them."""

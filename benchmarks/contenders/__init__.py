"""The servers that are compared, one file each. Start with `base.py`; `all.py` lists them."""

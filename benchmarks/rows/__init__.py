"""What is measured, one small module for each kind of row. Start with `base.py`; `all.py` lists them."""

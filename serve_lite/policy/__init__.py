"""Pure decisions: values in, actions out. No I/O, no clock, no chance of their own."""

"""What serve-lite promises about who may do what, tried against real instances."""

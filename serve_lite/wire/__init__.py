"""Bytes, frames and calls between processes on one machine."""

"""Frames: what is put in comes out, however the bytes are cut."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_lite.wire.frames import HEADER, Frame, FrameDecoder, encode_frame

frames = st.lists(
    st.tuples(
        st.integers(1, 14),
        st.integers(0, 2**32 - 1),
        st.integers(0, 2**16 - 1),
        st.binary(max_size=50),
        st.lists(st.binary(max_size=40_000), max_size=4),
    ),
    max_size=5,
)


def as_bytes(frame: Frame) -> bytes:
    kind, call, aux, envelope, buffers = frame
    return b"".join(bytes(chunk) for chunk in encode_frame(kind, call, aux, envelope, buffers))


def plain(frame: Frame) -> tuple[int, int, int, bytes, list[bytes]]:
    kind, call, aux, envelope, buffers = frame
    return kind, call, aux, envelope, [bytes(b) for b in buffers]


@given(frames, st.integers(1, 70_000))
def test_frames_come_out_as_they_went_in_however_they_are_cut(sent: list[Frame], step: int) -> None:
    data = b"".join(map(as_bytes, sent))
    decoder = FrameDecoder()
    received = [frame for at in range(0, len(data), step) for frame in decoder.feed(data[at : at + step])]
    assert [plain(f) for f in received] == [plain(f) for f in sent]


def test_one_byte_at_a_time_is_enough() -> None:
    sent = (4, 7, 1, b"head", [b"a", b"", b"ccc"])
    decoder = FrameDecoder()
    received = [f for byte in as_bytes(sent) for f in decoder.feed(bytes([byte]))]
    assert [plain(f) for f in received] == [plain(sent)]


def test_a_large_frame_is_gathered_without_growing_piece_by_piece() -> None:
    body = bytes(range(256)) * 4096
    data = as_bytes((6, 1, 0, b"e", [body])) + as_bytes((6, 2, 0, b"next", []))
    decoder = FrameDecoder()
    received = [f for at in range(0, len(data), 50_000) for f in decoder.feed(data[at : at + 50_000])]
    assert [(f[1], f[3], b"".join(f[4])) for f in received] == [(1, b"e", body), (2, b"next", b"")]


@pytest.mark.parametrize(
    "header",
    [
        HEADER.pack(4, 9, 1, 0, 6, 0),  # envelope longer than the payload
        HEADER.pack(8, 4, 1, 0, 6, 9),  # no room for the table of nine lengths
        HEADER.pack(12, 0, 1, 0, 6, 2),  # buffers do not fill the payload
    ],
)
def test_a_frame_that_contradicts_itself_is_refused(header: bytes) -> None:
    with pytest.raises(ValueError, match="frame of call 1"):
        FrameDecoder().feed(header + b"\0" * 12)


def test_more_buffers_than_the_header_can_count_are_refused() -> None:
    with pytest.raises(ValueError, match="256 buffers"):
        encode_frame(6, 1, 0, b"", [b"x"] * 256)

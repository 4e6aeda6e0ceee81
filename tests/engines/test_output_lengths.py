"""Files of recorded output lengths, and which request a line belongs to."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from revati.engines.output_lengths import OutputLengthsError, read_output_lengths
from revati.engines.vllm.recorded_lengths import clients_id, note_length, place_end


def written(folder: Path, text: str) -> Path:
    path = folder / "lengths.jsonl"
    path.write_text(text)
    return path


def test_lines_belong_to_the_number_at_the_end_of_an_id(tmp_path: Path) -> None:
    lengths = read_output_lengths(written(tmp_path, '{"output_tokens": 7}\n\n{"output_tokens": 9}\n'))
    assert [lengths.of(i) for i in ("bench-0", "bench-1", "1", "bench-2", "bench", "b1")] == [
        7, 9, 9, None, None, None,
    ]  # fmt: skip


def test_lines_belong_to_the_id_they_name(tmp_path: Path) -> None:
    text = '{"request_id": "a-0", "output_tokens": 7}\n{"output_tokens": 9, "request_id": "b"}\n'
    lengths = read_output_lengths(written(tmp_path, text))
    assert [lengths.of(i) for i in ("a-0", "b", "0", "a")] == [7, 9, None, None]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "is empty"),
        ("12\n", "line 1: expected"),
        ('{"output_tokens": 1}\nnonsense\n', "line 2: expected"),
        ('{"output_len": 1}\n', "line 1: expected"),
        ('{"output_tokens": 0}\n', "from 1 on, got 0"),
        ('{"output_tokens": true}\n', "from 1 on, got True"),
        ('{"output_tokens": "5"}\n', "from 1 on, got '5'"),
        ('{"output_tokens": 1}\n{"output_tokens": 1, "request_id": "a"}\n', "line 2: request_id 'a'"),
        ('{"output_tokens": 1, "request_id": "a"}\n{"output_tokens": 1}\n', "line 2: no request_id"),
        ('{"output_tokens": 1, "request_id": "a"}\n{"output_tokens": 1, "request_id": "a"}\n', "twice"),
        ('{"output_tokens": 1, "request_id": 3}\n', "must be a text"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, text: str, expected: str) -> None:
    with pytest.raises(OutputLengthsError, match=expected) as caught:
        read_output_lengths(written(tmp_path, text))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("vllms", "clients"),
    [
        ("cmpl-bench-3-0", "bench-3"),
        ("cmpl-bench-3-12", "bench-3"),
        ("chatcmpl-bench-3", "bench-3"),
        ("17", "17"),
    ],
)
def test_the_clients_id_is_found_in_vllms(vllms: str, clients: str) -> None:
    assert clients_id(vllms) == clients


def sampling(**changes: Any) -> Any:
    defaults = {"ignore_eos": False, "eos_token_id": 2, "stop_token_ids": [], "min_tokens": 0}
    return SimpleNamespace(**defaults | {"extra_args": None} | changes)


def ended(params: Any, steps: list[list[int]], folder: Path) -> list[int]:
    """All tokens of request 0, of length 4, after these steps of an engine that does not stop."""
    lengths = read_output_lengths(written(folder, '{"output_tokens": 4}\n'))
    note_length(SimpleNamespace(request_id="cmpl-bench-0-0", sampling_params=params), lengths)
    tokens: list[int] = []
    for new in steps:
        request = SimpleNamespace(sampling_params=params, num_output_tokens=len(tokens))
        place_end(request, new)
        tokens += new
    return tokens


def test_the_end_token_is_placed_once_at_the_recorded_length(tmp_path: Path) -> None:
    assert ended(sampling(), [[1], [1], [1], [1], [1]], tmp_path) == [1, 1, 1, 2, 1]
    assert ended(sampling(), [[1, 1, 1], [1, 1, 1]], tmp_path) == [1, 1, 1, 2, 1, 1]  # speculative decoding
    assert ended(sampling(eos_token_id=None, stop_token_ids=[9]), [[1] * 5], tmp_path) == [1, 1, 1, 9, 1]


def test_what_the_client_asked_for_comes_first(tmp_path: Path) -> None:
    assert ended(sampling(ignore_eos=True, eos_token_id=None), [[1] * 5], tmp_path) == [1] * 5
    assert ended(sampling(min_tokens=5), [[1] * 6], tmp_path) == [1, 1, 1, 1, 2, 1]
    params = sampling(extra_args={"mine": 1})
    assert ended(params, [[1] * 5], tmp_path)[3] == 2
    assert params.extra_args["mine"] == 1

"""Speculative decoding's acceptance policy: rates hold, are the same in every run, and are checked."""

from __future__ import annotations

from tests.device.test_cuda_identity import passes, run

VERIFY = """
    import torch
    import numpy
    from revati import _C
    from revati.engines.vllm import speculation

    def verify(requests, drafts, first_position=100, rates=None, placeholder=None):
        "Accepted drafts of each request: what the kernels of one verification step leave in num_sampled."
        n = requests * (drafts + 1)
        ids = torch.full((n,), 1, dtype=torch.int32)
        if placeholder is not None:
            ids[placeholder] = -1
        sampled = torch.empty(requests, drafts + 1, dtype=torch.int64, device="cuda")
        count = torch.empty(requests, dtype=torch.int32, device="cuda")
        bounds = (torch.arange(requests + 1) * (drafts + 1)).int().cuda()
        positions = (first_position + torch.arange(n) % (drafts + 1)).cuda()
        speculation._rejection({
            "cu_num_logits_ptr": bounds, "idx_mapping_ptr": torch.arange(requests).cuda(),
            "pos_ptr": positions, "draft_sampled_ptr": ids.cuda(), "rejected_steps_ptr": count,
            "sampled_ptr": sampled, "SYNTHETIC_MODE": rates is not None,
            "synthetic_conditional_rates_ptr": None if rates is None else torch.tensor(rates).cuda(),
        }, (requests,))
        accepted = count.tolist()
        speculation._insert_resampled({"num_sampled_ptr": count}, (requests,))
        assert count.tolist() == [k + 1 for k in accepted]
        assert sampled[:, 0].tolist() == [_C.token_id()] * requests
        return accepted
"""


def test_rates_hold_and_two_runs_agree() -> None:
    passes(
        VERIFY
        + """
    accepted = verify(4000, 3)
    first = sum(k >= 1 for k in accepted) / 4000
    third = sum(k >= 3 for k in accepted) / 4000
    assert abs(first - 0.8) < 0.03 and abs(third - 0.8 ** 3) < 0.03, (first, third)
    assert accepted == verify(4000, 3)
    assert accepted != verify(4000, 3, first_position=200)
    """,
        REVATI_ACCEPTANCE_RATE="0.8",
    )


def test_all_none_and_the_rates_of_vllms_synthetic_method() -> None:
    passes(
        VERIFY
        + """
    assert verify(50, 4, rates=[1.0, 1.0, 0.0, 1.0]) == [2] * 50
    accepted = verify(4000, 2, rates=[0.5, 1.0])
    assert set(accepted) == {0, 2} and abs(sum(accepted) / 8000 - 0.5) < 0.03
    assert verify(3, 3, rates=[1.0] * 3, placeholder=[5, 6, 7]) == [3, 0, 3]
    """
    )


def test_a_rate_that_is_none_is_refused() -> None:
    done = run(
        "from revati.engines.vllm.speculation import acceptance_rate\nacceptance_rate()",
        REVATI_ACCEPTANCE_RATE="70%",
    )
    assert done.returncode == 1 and "expected a number from 0 to 1" in done.stderr

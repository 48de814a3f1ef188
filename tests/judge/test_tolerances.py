"""The one tolerance table."""

from __future__ import annotations

from tasks.judge.tolerances import rule_for


def test_tolerances_of_the_table():
    for name, relative in (
        ("lm loss", 0.05),
        ("num-zeros", 0.20),
        ("iteration-time", 0.05),
        ("mtp_1 loss", 0.05),
    ):
        assert rule_for(name).relative == relative
    for name in ("mem-allocated-bytes", "mem-max-allocated-bytes"):
        assert rule_for(name, platform="dgx_a100").relative == 0.05
        assert rule_for(name, platform="cpu_x86_64").relative == 0.10
        assert rule_for(name).one_sided
    for name in ("lm loss", "num-zeros", "grad-norm", "params-norm", "learning-rate"):
        assert rule_for(name, platform="cpu_aarch64").deterministic
    assert not rule_for("iteration-time", platform="cpu_x86_64").judged
    assert rule_for("iteration-time", platform="gpu1_h100").judged
    for shared in ("gpu1_h100", "gpu2_h100"):
        assert rule_for("iteration-time", platform=shared).relative == 1.0
    assert rule_for("iteration-time", platform="gpu4_h100").relative == 0.05
    assert rule_for("iteration-time", platform="dgx_h100").relative == 0.05
    assert rule_for("overlap-grad-buckets").deterministic
    assert not rule_for("overlap-hidden-time").judged

"""Long videos made of clips: how a chain is divided, checked and put together."""

from mold_core.chains.plan import ChainPlan, overlap_frames, plan

__all__ = ["ChainPlan", "overlap_frames", "plan"]

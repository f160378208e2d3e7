"""Chains: long videos from several clips. Validates and divides requests, stores clips on disk, joins them."""

from mold_core.chains.chain import Chain, chain_id, lay_out, stage_seed
from mold_core.chains.clips import ClipFiles, ClipWork, encode_clip, render_clip
from mold_core.chains.joined import join
from mold_core.chains.lengths import frames_of, request_of_length
from mold_core.chains.plan import ChainPlan, ClipRules, overlap_frames, plan
from mold_core.chains.script import read_script, script_of, write_script
from mold_core.chains.store import ChainStore, SavedChain

__all__ = [
    "Chain",
    "ChainPlan",
    "ChainStore",
    "ClipFiles",
    "ClipRules",
    "ClipWork",
    "SavedChain",
    "chain_id",
    "encode_clip",
    "frames_of",
    "join",
    "lay_out",
    "overlap_frames",
    "plan",
    "read_script",
    "render_clip",
    "request_of_length",
    "script_of",
    "stage_seed",
    "write_script",
]

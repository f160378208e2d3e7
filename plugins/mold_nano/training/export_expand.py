"""Writes the trained language model as `expand-nano.gguf`, in 8-bit blocks under llama.cpp's names.

    python export_expand.py --work /path/to/scratch --out ../mold_nano/models/expand-nano

The file is then read with `mold_expand`, and its scores are compared with those of the trained network.
"""

import argparse
from pathlib import Path

import gguf
import torch
from language_model import LanguageModel, Shape
from optim import Optimiser
from tokenizers import Tokenizer
from torch import Tensor
from train_expand import framed, is_matrix

FILE = "expand-nano.gguf"
OUTSIDE = {"model.embed_tokens": "token_embd", "model.norm": "output_norm"}
INSIDE = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def trained(work: Path) -> LanguageModel:
    """Returns the network with the averaged weights of a checkpoint, in float32."""
    state = torch.load(work / "expand.pt", weights_only=True)
    model = LanguageModel(Shape(vocabulary=state["vocabulary"]))
    optimiser = Optimiser(
        model.named_parameters(), is_matrix=is_matrix, rank=0, world=1, muon_lr=0, adam_lr=0, ema_decay=0
    )
    optimiser.load_state_dict(state["optimiser"])
    model.load_state_dict(optimiser.averaged())
    print(f"{optimiser.step_count} steps, {state['elapsed_s'] / 60:.0f} minutes")
    return model.eval()


def stored(name: str) -> str:
    """Returns the name of a parameter in the file."""
    stem = name.removesuffix(".weight")
    if stem in OUTSIDE:
        return f"{OUTSIDE[stem]}.weight"
    _, _, number, inner = stem.split(".", 3)
    return f"blk.{number}.{INSIDE[inner]}.weight"


def write(model: LanguageModel, path: Path) -> None:
    """Writes the file, and rounds the model's matrices as the file does."""
    shape = model.shape
    writer = gguf.GGUFWriter(path, "qwen3")
    writer.add_name("expand-nano")
    writer.add_license("MIT")
    writer.add_context_length(shape.context)
    writer.add_block_count(shape.layers)
    writer.add_embedding_length(shape.width)
    writer.add_feed_forward_length(shape.ff_width)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_key_length(shape.head_width)
    writer.add_value_length(shape.head_width)
    writer.add_rope_freq_base(shape.theta)
    writer.add_layer_norm_rms_eps(shape.eps)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    kind = gguf.GGMLQuantizationType.Q8_0
    for name, parameter in model.named_parameters():
        numbers = parameter.detach().numpy()
        if parameter.ndim < 2:
            writer.add_tensor(stored(name), numbers)
            continue
        blocks = gguf.quants.quantize(numbers, kind)
        writer.add_tensor(stored(name), blocks, raw_dtype=kind)
        parameter.data = torch.from_numpy(gguf.quants.dequantize(blocks, kind))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@torch.inference_mode()
def difference(model: LanguageModel, out: Path) -> float:
    """Returns how far the scores that mold computes from the file are from the trainer's, relative to their spread."""
    from mold_expand.checkpoints import load_qwen3

    ids = torch.tensor(Tokenizer.from_file(str(out / "tokenizer.json")).encode(framed("a red house")).ids)
    wanted: Tensor = model(ids[None])[0, -1]
    made, _ = load_qwen3(out / FILE, "cpu", torch.float32).read(ids)
    return float((made[0] - wanted).abs().max() / wanted.std())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="folder of the checkpoint")
    parser.add_argument("--out", type=Path, required=True, help="folder of the model, which holds its tokenizer")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    model = trained(arguments.work)
    temporary = arguments.out / f"{FILE}.part"
    write(model, temporary)
    temporary.replace(arguments.out / FILE)
    far = difference(model, arguments.out)
    print(f"{(arguments.out / FILE).stat().st_size:,} bytes; largest difference from mold_expand: {far:.2g}")
    if far > 1e-3:
        raise SystemExit("the exported file does not mean to mold_expand what it means to the trainer")


if __name__ == "__main__":
    main()
